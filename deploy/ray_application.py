"""A Ray Serve application whose replicas answer like `focalnets serve`.

    pip install 'ray[serve]' 'focalnets[serve,onnxruntime]'
    FOCALNETS_EXPORTS="micro=/models/micro birds=/models/birds" serve run ray_application:application

Each replica has one thread and one core. Ray starts more of them under load.
"""

import os

from ray import serve
from starlette.responses import Response

from focalnets.serving.network import named_exports
from focalnets.serving.server import Settings
from focalnets.serving.server import application as focalnets_application


@serve.deployment(
    max_ongoing_requests=16,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=20,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4},
    ray_actor_options={"num_cpus": 1},
)
class Networks:
    """The endpoints of `focalnets serve` for exports, dict of name -> path of a directory."""

    def __init__(self, exports):
        self._app, self._state = focalnets_application(Settings(exports, threads=1, reload=0))

    async def __call__(self, request):
        """Answer a request of starlette, which Ray passes on."""
        sent = []

        async def send(message):
            sent.append(message)

        scope = {**request.scope, "path": request.scope["path"].removeprefix(request.scope["root_path"])}
        await self._app({**scope, "root_path": ""}, request.receive, send)
        body = b"".join(message.get("body", b"") for message in sent)
        response = Response(body, sent[0]["status"])
        response.raw_headers = sent[0]["headers"]
        return response

    def __del__(self):
        """Let the running calls end."""
        self._state.turns.close()


application = Networks.bind(named_exports(os.environ.get("FOCALNETS_EXPORTS", "").split()))
