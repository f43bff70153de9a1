// The anywidget module: one link, painter and tool set per model, one desk per view.

export default () => {
  let link, painter, tools, attached;
  return {
    initialize({ model }) {
      tools = new Tools(model.get("project"));
      link = new Link(model);
      painter = new Painter(link, tools);
      link.penDown = () => painter.open !== null;
      attached = painter.attach(model);
      return () => link.close();
    },
    async render({ el }) {
      const desk = new Desk(link, painter, tools, el);
      await attached;
      link.views += 1;
      desk.attach();
      const timer = setInterval(() => desk.attach(), 200);
      link.hello();
      return () => {
        clearInterval(timer);
        link.views -= 1;
        desk.close();
      };
    },
  };
};
