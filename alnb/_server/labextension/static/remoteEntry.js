// Runs the cells of the notebook that `alnb lab` opened, down to the one tagged "alnb-view", so that
// the labelling view is on the screen without a key pressed. It acts on that one notebook only: its
// path comes from the server's command line, never from a notebook or an address, because a file
// that runs when it is opened would be a trap. Written by hand: no bundler, nothing fetched.
(() => {
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  const startPath = () => {
    const page = document.getElementById("jupyter-config-data");
    return page ? JSON.parse(page.textContent).alnbStart : undefined;
  };

  const opened = async (app, path) => {
    for (let tries = 0; tries < 1200; tries += 1) {
      const panel = app.shell.currentWidget;
      const kernel = panel?.sessionContext?.session?.kernel;
      if (panel?.context?.path === path && kernel?.status === "idle") return { panel, kernel };
      await sleep(100);
    }
    return undefined;
  };

  const run = async (app, path) => {
    await app.restored;
    const found = await opened(app, path);
    if (!found) return;
    const { panel, kernel } = found;
    // a reload of the page meets a kernel that has run these cells already
    const mark = `alnb-started-${kernel.id}`;
    if (sessionStorage.getItem(mark)) return;
    sessionStorage.setItem(mark, "yes");
    const { content } = panel;
    const last = content.widgets.findIndex((cell) =>
      (cell.model.getMetadata("tags") ?? []).includes("alnb-view"),
    );
    for (let index = 0; index <= last; index += 1) {
      content.activeCellIndex = index;
      await app.commands.execute("notebook:run-cell");
    }
    await bringUp(content.widgets[last]?.node);
  };

  // The view, not the text above it, is what a person came for. It grows while its parts arrive, so
  // it is brought up again until it stays in place.
  const bringUp = async (cell) => {
    for (let tries = 0, still = 0; tries < 100 && still < 5; tries += 1) {
      const view = cell?.querySelector(".alnb-desk");
      const top = view?.getBoundingClientRect().top;
      view?.scrollIntoView({ block: "start" });
      still = view && view.getBoundingClientRect().top === top ? still + 1 : 0;
      await sleep(200);
    }
  };

  const plugin = {
    id: "alnb:start",
    autoStart: true,
    activate: (app) => {
      const path = startPath();
      if (path) void run(app, path);
    },
  };

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB.alnb = {
    init: () => undefined,
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();
