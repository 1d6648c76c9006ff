"""`focalnets serve`."""

from focalnets.files import expanded
from focalnets.serving.network import named_exports
from focalnets.serving.server import Settings, serve


def run(arguments):
    """Serve until SIGTERM or Ctrl-C."""
    serve(
        Settings(
            named_exports(arguments.exports),
            arguments.host,
            arguments.port,
            arguments.workers,
            arguments.threads,
            arguments.queue,
            arguments.max_batch,
            arguments.max_delay / 1000,
            arguments.timeout,
            round(arguments.max_body * 1e6),
            lame_duck=arguments.lame_duck,
            reload=arguments.reload,
            token=_token(arguments.token_file),
            engine=arguments.engine,
            access_log=not arguments.no_access_log,
        )
    )


def _token(path):
    if path is None:
        return None
    token = expanded(path).read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{path} holds no token.")
    return token
