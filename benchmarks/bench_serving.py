"""Throughput and latency of `focalnets serve` beside its runtime alone.

    python benchmarks/bench_serving.py EXPORT [--rounds 5] [--seconds 10] [--connections 32] [--engine auto]
        [--overload 128 256] [--unbatched] [--peers PYTHON] [--options ...]

Contenders take turns: the runtime alone on decoded images, in one process with a thread per core and in one
process per core; and the server with JPEG files and with binary tensors, loaded by `wrk`, which has to be
installed. The server runs alone on the machine with its client, so the client's processor time counts
against the throughput. Rows: good requests per second, median and range over the rounds; percentiles of the
latency; and processor time per good request of the server, with all of its threads.

`--overload` adds rounds with these numbers of connections, more than wait in the queue. `--unbatched` adds a
server with `--max-batch 1`. `--peers` is the interpreter of an environment with LitServe and KServe, see
`serving_peers.py`. `--options` are passed to `focalnets serve`. The last lines printed are the statuses of
all responses.
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import measure
import numpy as np

IMAGE = pathlib.Path(__file__).parents[1] / "docs" / "cifar10" / "cat.jpg"
LUA = """wrk.method = "POST"
wrk.headers["Content-Type"] = "{kind}"
{header}
local file = io.open("{path}", "rb")
wrk.body = file:read("*a")
file:close()

function done(summary, latency)
    for _, share in ipairs({{50, 95, 99}}) do
        print(string.format("quantile %d %.3f", share, latency:percentile(share) / 1000))
    end
end
"""
MEASURED = ("requests_per_s", "cpu_ms", "p50_ms", "p95_ms", "p99_ms", "refused", "memory_mb")
TICKS = os.sysconf("SC_CLK_TCK")


def runtime_alone(export, runtime, processes, seconds):
    """(images per second, processor milliseconds per image) of the runtime alone."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, __file__, str(export), "--worker", str(threads), "--seconds", str(seconds)]
    command += ["--engine", runtime]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    found = [json.loads(one.communicate()[0]) for one in running]
    images = sum(row["images"] / row["seconds"] for row in found)
    return images, 1000 * sum(row["cpu"] for row in found) / sum(row["images"] for row in found)


def worker(export, runtime, threads, seconds):
    from focalnets.serving.network import ServedNetwork

    network = ServedNetwork(pathlib.Path(export), runtime, threads)
    image = network.decode(IMAGE.read_bytes(), "cat")[None]
    network.warm_up()
    counts, end = [0] * threads, time.perf_counter() + seconds

    def work(place):
        while time.perf_counter() < end:
            network.classify(image)
            counts[place] += 1

    began, cpu = time.perf_counter(), time.process_time()
    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    row = {"images": sum(counts), "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    print(json.dumps(row))


class Process:
    """A server with its child processes, and their processor time and memory."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(command, start_new_session=True, text=True, **options)

    def _pids(self):
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getsid(int(path.name)) == self.process.pid:
                    yield path

    def cpu(self):
        fields = [(path / "stat").read_text().rpartition(") ")[2].split() for path in self._pids()]
        return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS

    def memory_mb(self):
        texts = [(path / "status").read_text() for path in self._pids()]
        return sum(int(found[1]) for text in texts if (found := re.search(r"VmRSS:\s+(\d+)", text))) / 1024

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


class Peer(Process):
    """A server of `serving_peers.py`."""

    def __init__(self, python, kind, export, port):
        script = pathlib.Path(__file__).with_name("serving_peers.py")
        command = [python, str(script), kind, str(pathlib.Path(export).absolute()), str(port)]
        nowhere = subprocess.DEVNULL
        super().__init__(command, cwd=tempfile.gettempdir(), stdout=nowhere, stderr=nowhere)
        self.address = f"http://127.0.0.1:{port}"
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{kind} does not start: {shlex.join(self.process.args)}")


class Server(Process):
    """`focalnets serve`."""

    def __init__(self, export, runtime, options):
        command = [sys.executable, "-m", "focalnets", "serve", str(export), "--port", "0", "--lame-duck", "0"]
        began = time.perf_counter()
        super().__init__([*command, "--no-access-log", "--engine", runtime, *options], stderr=subprocess.PIPE)
        for line in self.process.stderr:
            row = json.loads(line)
            if row["event"] == "starting":
                self.address = row["address"]
            if row["event"] == "ready":
                self.ready_s = time.perf_counter() - began
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def statuses(self):
        """Dict of "endpoint status" -> number of responses."""
        with urllib.request.urlopen(f"{self.address}/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(r'focalnets_requests_total{endpoint="(\w+)",status="(\d+)"} ([\d.]+)', text)
        return {f"{endpoint} {status}": int(float(count)) for endpoint, status, count in found}


def load(server, script, path, seconds, connections):
    """Facts of one run of wrk."""
    before = server.cpu()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    ran = subprocess.run(
        [*command, "-s", str(script), server.address + path], capture_output=True, text=True, check=True
    )
    text = ran.stdout
    requests = int(re.search(r"(\d+) requests in", text)[1])
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: (.*)", text)
    quantiles = {f"p{q}_ms": float(re.search(rf"quantile {q} ([\d.]+)", text)[1]) for q in (50, 95, 99)}
    bad = int(errors[1]) if errors else 0
    return {
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
        * (1 - bad / max(1, requests)),
        "cpu_ms": 1000 * (server.cpu() - before) / max(1, requests - bad),
        **quantiles,
        "refused": bad,
        "socket_errors": sockets[1] if sockets else "",
    }


def scripts(folder, export):
    """Scripts of wrk by the name of what is sent, with the path of the request."""
    from focalnets.serving.network import ServedNetwork

    network = ServedNetwork(pathlib.Path(export))
    image = network.decode(IMAGE.read_bytes(), "cat")[None]
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(image.shape)}
    tensor["parameters"] = {"binary_data_size": image.nbytes}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    body = folder / "tensor"
    body.write_bytes(head + image.tobytes())
    length = f'wrk.headers["Inference-Header-Content-Length"] = "{len(head)}"'
    coded = folder / "json"
    coded.write_text(json.dumps({"image": base64.b64encode(IMAGE.read_bytes()).decode()}))
    found = {}
    for name, kind, header, path, where in (
        ("JPEG", "image/jpeg", "", IMAGE, "/predict"),
        ("tensor", "application/octet-stream", length, body, f"/v2/models/{pathlib.Path(export).name}/infer"),
        ("base64", "application/json", "", coded, "/predict"),
    ):
        found[name] = (folder / f"{name}.lua", where)
        found[name][0].write_text(LUA.format(kind=kind, header=header, path=path))
    return found


def contenders(arguments, stack):
    """List of (name, server, what is sent, connections). The servers stop with the stack."""

    def started(server):
        stack.callback(server.stop)
        return server

    export, few = arguments.export, arguments.connections
    server = started(Server(export, arguments.engine, arguments.options))
    found = [(f"serve, {kind}", server, kind, few) for kind in ("JPEG", "tensor")]
    found += [(f"serve, JPEG, {many} connections", server, "JPEG", many) for many in arguments.overload]
    if arguments.unbatched:
        single = started(Server(export, arguments.engine, [*arguments.options, "--max-batch", "1"]))
        found += [(f"serve, {kind}, no batches", single, kind, few) for kind in ("JPEG", "tensor")]
    if arguments.peers:
        litserve = started(Peer(arguments.peers, "litserve", export, 8301))
        kserve = started(Peer(arguments.peers, "kserve", export, 8302))
        found += [("LitServe, JPEG in base64", litserve, "base64", few)]
        found += [("KServe, tensor", kserve, "tensor", few)]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--overload", type=int, nargs="*", default=[])
    parser.add_argument("--unbatched", action="store_true")
    parser.add_argument("--peers")
    parser.add_argument("--worker", type=int)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.export, arguments.engine, arguments.worker, arguments.seconds)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sent = scripts(pathlib.Path(folder), arguments.export)
        measured = contenders(arguments, stack)
        for _ in range(arguments.rounds):
            for processes in (1, 2):
                images, cpu = runtime_alone(arguments.export, arguments.engine, processes, arguments.seconds)
                row = {"requests_per_s": images, "cpu_ms": cpu}
                rows.setdefault(f"runtime alone, {processes} processes", []).append(row)
            for name, server, kind, connections in measured:
                script, path = sent[kind]
                facts = load(server, script, path, arguments.seconds, connections)
                facts |= {"memory_mb": server.memory_mb(), "connections": connections}
                rows.setdefault(name, []).append(facts)
                print(name, facts, flush=True)
        for server in {id(one[1]): one[1] for one in measured}.values():
            if isinstance(server, Server):
                print("statuses", server.statuses())
    best = max(np.median([row["requests_per_s"] for row in rows[name]]) for name in list(rows)[:2])
    written = []
    for name, found in rows.items():
        speed = [row["requests_per_s"] for row in found]
        facts = {
            key: round(float(np.median([row[key] for row in found])), 2) if key in found[0] else ""
            for key in MEASURED
        }
        written.append(
            {
                "what": name,
                "connections": found[0].get("connections", ""),
                "engine": arguments.engine,
                "options": " ".join(arguments.options),
                **facts,
                "least_per_s": round(min(speed), 1),
                "most_per_s": round(max(speed), 1),
                "ratio_to_runtime": round(float(np.median(speed) / best), 3),
            }
        )
        print(written[-1])
    measure.write_rows("serving", written)


if __name__ == "__main__":
    main()
