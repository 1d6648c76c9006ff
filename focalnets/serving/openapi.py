"""The OpenAPI document of the server."""

from focalnets import __version__

_ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_TEXT = {"type": "string"}


def openapi(names, limits):
    """OpenAPI 3.1 document, a dict.

    Args:
        names: list of str. Names of the networks.
        limits: `Limits`.
    """
    named = _parameter("name", "path", {"type": "string", "enum": names})
    version = _parameter("version", "path", _TEXT)
    paths = {
        "/": {"get": _get("A page that explains images of its reader.", _TEXT, "text/html")},
        "/predict": {"post": _predict(names, limits)},
        "/v2/health/live": {"get": _get("The server runs.", _object(live={"type": "boolean"}))},
        "/v2/health/ready": {"get": _get("The server answers requests.", _object(ready={"type": "boolean"}))},
        "/v2": {"get": _get("Name, version and extensions of the server.", {"type": "object"})},
        "/metrics": {"get": _get("Measurements for Prometheus.", _TEXT, "text/plain")},
        "/openapi.json": {"get": _get("This document.", {"type": "object"})},
    }
    for base, parameters in (
        ("/v2/models/{name}", [named]),
        ("/v2/models/{name}/versions/{version}", [named, version]),
    ):
        about = {"type": "object", "required": ["name", "versions", "platform", "inputs", "outputs"]}
        ready = _object(name=_TEXT, ready={"type": "boolean"})
        paths[base] = {"get": _get("Inputs and outputs of a network.", about), "parameters": parameters}
        paths[f"{base}/ready"] = {
            "get": _get("Whether a network answers requests.", ready),
            "parameters": parameters,
        }
        paths[f"{base}/infer"] = {"post": _infer(limits), "parameters": parameters}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "focalnets",
            "version": __version__,
            "description": "Classification and explanation of images by focal modulation networks.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _predict(names, limits):
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "schema": {
            "type": "object",
            "properties": {
                "images": {
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                    "maxItems": limits.images,
                }
            },
        }
    }
    kinds = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    return {
        "summary": "Classify image files.",
        "parameters": [
            _parameter("model", "query", {"type": "string", "enum": names}),
            _parameter("top", "query", {"type": "integer", "minimum": 1}),
            _parameter("explain", "query", {"type": "integer", "minimum": 0, "maximum": 1}),
        ],
        "requestBody": {
            "required": True,
            "content": {**dict.fromkeys(kinds, binary), "multipart/form-data": form},
        },
        "responses": _responses("Predictions", 400, 401, 404, 408, 413, 415, 500, 503),
    }


def _infer(limits):
    return {
        "summary": "Open Inference Protocol, version 2.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": _responses("InferenceResponse", 400, 401, 404, 408, 413, 500, 503),
    }


def _get(summary, schema, media_type="application/json"):
    good = {"description": summary, "content": {media_type: {"schema": schema}}}
    errors = {str(code): {"description": "Error", **_ERROR} for code in (401, 404)}
    return {"summary": summary, "responses": {"200": good, **errors, "503": {"description": "Not ready"}}}


def _responses(schema, *codes):
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    good = {"description": "Result", "content": {**content, "application/octet-stream": {"schema": {}}}}
    return {"200": good, **{str(code): {"description": "Error", **_ERROR} for code in codes}}


def _parameter(name, place, schema):
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _object(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schemas():
    evidence = {
        **_object(
            shape={"type": "array", "items": {"type": "integer"}}, data=_TEXT, levels={"type": "object"}
        ),
        "description": (
            "Exact evidence for the most probable class, float32 (height, width), little-endian, in base64. "
            "Its sum is the difference of the logit from that of the mean color."
        ),
    }
    prediction = _object(name=_TEXT, classes={"type": "array", "items": _TEXT}, probabilities=_NUMBERS)
    prediction["properties"]["evidence"] = evidence
    tensor = _object(
        name={"const": "images"},
        shape={"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
        datatype={"const": "UINT8"},
    )
    tensor["properties"] |= {
        "data": {"type": "array", "description": "Numbers from 0 to 255, nested or flat."},
        "parameters": {"type": "object"},
    }
    output = _object(name={"enum": ["probabilities", "logits"]})
    output["properties"]["parameters"] = {"type": "object"}
    request = _object(inputs={"type": "array", "items": tensor, "minItems": 1, "maxItems": 1})
    request["properties"] |= {
        "id": _TEXT,
        "outputs": {"type": "array", "items": output},
        "parameters": {"type": "object"},
    }
    response = _object(model_name=_TEXT, model_version=_TEXT, outputs={"type": "array"})
    return {
        "Error": _object(error=_TEXT),
        "Predictions": _object(
            model=_TEXT, version=_TEXT, predictions={"type": "array", "items": prediction}
        ),
        "InferenceRequest": request,
        "InferenceResponse": response,
    }
