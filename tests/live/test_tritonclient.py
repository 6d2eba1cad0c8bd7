"""The real client of Open Inference Protocol v2 against a running server: nothing in it is ours."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

NUMPY_TYPE = {"FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}


@pytest.fixture
def client(served_credit: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served_credit.host) as opened:
        yield opened


def headers_of(served: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.key}"}


def tensors_of(served: Any, client: triton.InferenceServerClient, *, rows: int, binary: bool) -> list[Any]:
    """Write the example as tensors, as the model's metadata describe them."""
    metadata = client.get_model_metadata(served.service, headers=headers_of(served))
    tensors = []
    for described in metadata["inputs"]:
        value = served.example.get(described["name"])
        if value is None:
            continue
        column = np.array([value] * rows, dtype=NUMPY_TYPE[described["datatype"]])
        tensor = triton.InferInput(described["name"], [rows], described["datatype"])
        tensor.set_data_from_numpy(column, binary_data=binary)
        tensors.append(tensor)
    return tensors


def native_output(served: Any) -> dict[str, Any]:
    """Ask for the same by the native route."""
    answer = httpx.post(
        f"{served.base_url}/services/{served.service}/predict",
        json=served.example,
        headers=headers_of(served),
    )
    answer.raise_for_status()
    output: dict[str, Any] = answer.json()["output"]
    return output


def plain(value: Any) -> Any:
    """Turn an element as the client gives it into what JSON would have held."""
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def test_the_client_finds_server_and_model_ready(served_credit: Any, client: triton.InferenceServerClient):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(served_credit.service, headers=headers_of(served_credit))
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


def test_the_metadata_name_the_fields_of_the_record(served_credit: Any, client: triton.InferenceServerClient):
    metadata = client.get_model_metadata(served_credit.service, headers=headers_of(served_credit))
    (version,) = metadata["versions"]

    inputs = {described["name"]: described for described in metadata["inputs"]}

    assert metadata["name"] == served_credit.service
    assert set(served_credit.example) <= set(inputs)
    assert all(described["shape"] == [-1] for described in inputs.values())
    assert client.is_model_ready(served_credit.service, version, headers=headers_of(served_credit))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_tensors_get_the_same_answer_as_the_native_route(
    served_credit: Any, client: triton.InferenceServerClient, rows: int, binary: bool
):
    """Numbers, text and booleans, in and out, as binary data (the client's own choice) and as JSON."""
    expected = native_output(served_credit)
    wanted = None
    if not binary:
        wanted = [triton.InferRequestedOutput(name, binary_data=False) for name in expected]

    result = client.infer(
        served_credit.service,
        tensors_of(served_credit, client, rows=rows, binary=binary),
        outputs=wanted,
        request_id="mine",
        headers=headers_of(served_credit),
    )

    response = result.get_response()
    assert response["model_name"] == served_credit.service
    assert response["id"] == "mine"
    assert response["parameters"]["request_id"]
    assert response["parameters"]["degraded"] is False
    assert {output["name"] for output in response["outputs"]} == set(expected)
    assert all(("data" in output) is not binary for output in response["outputs"])
    for name, value in expected.items():
        column = [plain(element) for element in result.as_numpy(name)]
        assert column == ([pytest.approx(value)] * rows if isinstance(value, float) else [value] * rows)


def test_only_the_wanted_outputs_come(served_credit: Any, client: triton.InferenceServerClient):
    name = next(iter(native_output(served_credit)))

    result = client.infer(
        served_credit.service,
        tensors_of(served_credit, client, rows=1, binary=True),
        outputs=[triton.InferRequestedOutput(name)],
        headers=headers_of(served_credit),
    )

    assert [output["name"] for output in result.get_response()["outputs"]] == [name]


def test_the_live_version_answers_and_another_does_not(
    served_credit: Any, client: triton.InferenceServerClient
):
    tensors = tensors_of(served_credit, client, rows=1, binary=True)
    metadata = client.get_model_metadata(served_credit.service, headers=headers_of(served_credit))
    (version,) = metadata["versions"]

    result = client.infer(
        served_credit.service, tensors, model_version=version, headers=headers_of(served_credit)
    )
    with pytest.raises(InferenceServerException) as caught:
        client.infer(
            served_credit.service, tensors, model_version="no-such", headers=headers_of(served_credit)
        )

    assert result.get_response()["model_version"] == version
    assert caught.value.status() == "404"


def test_a_tensor_of_the_wrong_datatype_is_an_error_that_the_client_can_read(
    served_credit: Any, client: triton.InferenceServerClient
):
    (first, *others) = tensors_of(served_credit, client, rows=1, binary=True)
    wrong = triton.InferInput(first.name(), [1], "BOOL" if first.datatype() != "BOOL" else "FP64")
    wrong.set_data_from_numpy(np.array([1], dtype=NUMPY_TYPE[wrong.datatype()]))

    with pytest.raises(InferenceServerException) as caught:
        client.infer(served_credit.service, [wrong, *others], headers=headers_of(served_credit))

    assert caught.value.status() in ("400", "422")
    assert first.name() in caught.value.message()


def test_an_output_that_does_not_exist_is_an_error_without_its_name(
    served_credit: Any, client: triton.InferenceServerClient
):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(
            served_credit.service,
            tensors_of(served_credit, client, rows=1, binary=True),
            outputs=[triton.InferRequestedOutput("no-such-output")],
            headers=headers_of(served_credit),
        )

    assert caught.value.status() == "400"
    assert "no-such-output" not in caught.value.message()


@pytest.mark.parametrize(
    ("service", "key", "status"),
    [("no-such-service", None, "404"), (None, "wrong", "401")],
    ids=["unknown service", "wrong key"],
)
def test_refusals_reach_the_client_with_their_status(
    served_credit: Any,
    client: triton.InferenceServerClient,
    service: str | None,
    key: str | None,
    status: str,
):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(
            service or served_credit.service,
            tensors_of(served_credit, client, rows=1, binary=True),
            headers={"Authorization": f"Bearer {key or served_credit.key}"},
        )

    assert caught.value.status() == status
