"""Throughput and latency of `focalnets serve` beside its runtime alone.

    python benchmarks/bench_serving.py EXPORT [--rounds 5] [--seconds 10] [--connections 32] [--engine auto]
        [--options ...]

Contenders take turns: the runtime alone on decoded images, in one process with a thread per core and in one
process per core; and the server with JPEG files and with binary tensors, loaded by `wrk`, which has to be
installed. The server runs alone on the machine with its client, so the client's processor time counts
against the throughput. Rows: requests per second, median and range over the rounds; percentiles of the
latency; and processor time per request of the server, with all of its threads.

`--options` are passed to `focalnets serve`, for example `--options --max-batch 16 --max-delay 2`.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

import measure
import numpy as np

IMAGE = pathlib.Path(__file__).parents[1] / "docs" / "cifar10" / "cat.jpg"
LUA = """wrk.method = "POST"
wrk.headers["Content-Type"] = "{kind}"
{header}
local file = io.open("{path}", "rb")
wrk.body = file:read("*a")
file:close()
"""
MEASURED = ("requests_per_s", "cpu_ms", "p50_ms", "p90_ms", "p99_ms", "refused", "memory_mb")
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


class Server:
    """A server process, and its processor time."""

    def __init__(self, export, runtime, options):
        command = [sys.executable, "-m", "focalnets", "serve", str(export), "--port", "0", "--lame-duck", "0"]
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--no-access-log", "--engine", runtime, *options], stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            row = json.loads(line)
            if row["event"] == "starting":
                self.address = row["address"]
            if row["event"] == "ready":
                self.ready_s = time.perf_counter() - began
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


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
    quantiles = {f"p{q}_ms": milliseconds(re.search(rf"{q}%\s+([\d.]+\w+)", text)[1]) for q in (50, 90, 99)}
    bad = int(errors[1]) if errors else 0
    return {
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
        * (1 - bad / max(1, requests)),
        "cpu_ms": 1000 * (server.cpu() - before) / max(1, requests - bad),
        **quantiles,
        "refused": bad,
        "socket_errors": sockets[1] if sockets else "",
    }


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


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
    found = {}
    for name, kind, header, path, where in (
        ("JPEG", "image/jpeg", "", IMAGE, "/predict"),
        ("tensor", "application/octet-stream", length, body, f"/v2/models/{pathlib.Path(export).name}/infer"),
    ):
        found[name] = (folder / f"{name}.lua", where)
        found[name][0].write_text(LUA.format(kind=kind, header=header, path=path))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--worker", type=int)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.export, arguments.engine, arguments.worker, arguments.seconds)
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        sent = scripts(pathlib.Path(folder), arguments.export)
        server = Server(arguments.export, arguments.engine, arguments.options)
        try:
            for _ in range(arguments.rounds):
                for processes in (1, 2):
                    images, cpu = runtime_alone(
                        arguments.export, arguments.engine, processes, arguments.seconds
                    )
                    row = {"requests_per_s": images, "cpu_ms": cpu}
                    rows.setdefault(f"runtime alone, {processes} processes", []).append(row)
                for name, (script, path) in sent.items():
                    facts = load(server, script, path, arguments.seconds, arguments.connections)
                    rows.setdefault(f"serve, {name}", []).append({**facts, "memory_mb": server.memory_mb()})
                    print(name, facts, flush=True)
        finally:
            server.stop()
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
                "connections": arguments.connections,
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
