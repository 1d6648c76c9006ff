"""The same export in the servers of other libraries, for `bench_serving.py --peers PYTHON`.

    python benchmarks/serving_peers.py litserve|kserve EXPORT PORT

Both run ONNX Runtime with one thread in each of two processes, their fastest setting on two cores. LitServe
takes a JPEG in base64, KServe the binary tensors of the Open Inference Protocol. The environment needs `pip
install litserve kserve onnxruntime`.
"""

import base64
import functools
import io
import logging
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image

PROCESSES = 2
logging.disable(logging.INFO)  # KServe logs each request
KIND, EXPORT, PORT = sys.argv[1:]


@functools.cache
def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(pathlib.Path(EXPORT, "model.onnx"), options)


# The processes of both libraries import this file again, and look for the classes at its top level.
if KIND == "litserve":
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device):
            session()

        def decode_request(self, request):
            with Image.open(io.BytesIO(base64.b64decode(request["image"]))) as image:
                return np.asarray(image.convert("RGB"))[None]

        def predict(self, images):
            return session().run(["probabilities"], {"images": images})[0]

        def encode_response(self, probabilities):
            return {"probabilities": probabilities[0].tolist()}

else:
    import kserve

    class Network(kserve.Model):
        def load(self):
            self.ready = True
            return True

        def predict(self, payload, headers=None, response_headers=None):
            (found,) = session().run(["probabilities"], {"images": payload.inputs[0].as_numpy()})
            output = kserve.InferOutput("probabilities", list(found.shape), "FP32")
            output.set_data_from_numpy(found, binary_data=True)
            return kserve.InferResponse(payload.id or "none", self.name, [output])


if __name__ == "__main__":
    if KIND == "litserve":
        server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=PROCESSES)
        server.run(host="127.0.0.1", port=int(PORT), generate_client_file=False, log_level="warning")
    else:
        network = Network(pathlib.Path(EXPORT).name)
        network.load()
        server = kserve.ModelServer(
            http_port=int(PORT), enable_grpc=False, workers=PROCESSES, enable_latency_logging=False
        )
        server.start([network])
