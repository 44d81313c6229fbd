"""R1: requests made from the service's own description, right and wrong ones, by schemathesis."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from tests.serve.conftest import Running

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models"]


def check(case: object) -> None:
    """No 5xx, nothing that takes long, every error in OpenAI's shape."""
    response = case.call(timeout=10)  # type: ignore[attr-defined]
    assert response.status_code < 500, (response.request.url, response.request.body, response.text)
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]


def try_all(server: Running, count: int) -> int:
    """So many requests of each operation, right ones and wrong ones by halves."""
    import schemathesis

    tried = 0
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json").include(path=PATHS)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
                continue  # nothing in it can be wrong

            @settings(
                max_examples=count // 2,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def one(case: object) -> None:
                nonlocal tried
                tried += 1
                check(case)

            one()
    return tried
