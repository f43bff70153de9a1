"""Optional extension of the Jupyter server.

It sends answers of the kernel without Nagle's 40 ms, and tells the page which notebook `alnb lab`
was asked to open.

Widget messages are small, so TCP's Nagle algorithm together with delayed acknowledgements holds
each of them back for about 40 ms. Setting TCP_NODELAY on the kernel websocket removes the wait.
It lives in the server's environment, which may be another than the kernel's: nothing in alnb
depends on it.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "alnb._server"}]


def _load_jupyter_server_extension(app: Any) -> None:
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

    key = "kernel_websocket_connection_class"
    base: Any = app.web_app.settings.get(key) or ZMQChannelsWebsocketConnection

    class NoDelay(base):
        """The server's own connection, with TCP_NODELAY set when it opens."""

        def connect(self) -> Any:
            self.websocket_handler.set_nodelay(True)
            return super().connect()

    app.web_app.settings[key] = NoDelay
    start = app.config.get("Alnb", {}).get("start")
    if start:
        app.web_app.settings.setdefault("page_config_data", {})["alnbStart"] = str(start)
