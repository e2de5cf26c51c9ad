import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maitre.serving.errors import MetricsError, VllmError
from maitre.serving.measure.run import describe_server
from maitre.serving.metrics import ServerMetrics, parse_metrics

TEXT = """
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 5.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="m"} 50.0
# TYPE vllm:request_success counter
vllm:request_success_total{finished_reason="stop",model_name="m"} 2.0
vllm:request_success_total{finished_reason="length",model_name="m"} 7.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a",waiting_lora_adapters=""} 10.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="b, c",waiting_lora_adapters="d"} 20.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0
"""


def test_figures_are_read_with_their_reasons() -> None:
    figures = parse_metrics(TEXT)
    assert (figures.running, figures.waiting, figures.requests) == (3, 5, 9)
    assert figures.waiting_by_reason == {"capacity": 1, "deferred": 4}
    assert figures.running_adapters == ("b", "c"), "the newest report counts"
    assert figures.waiting_adapters == ("d",)
    assert figures.max_loras == 4
    assert figures.kv_cache_tokens == 1600
    assert figures.by_model["m"].prompt_tokens == 100


def test_an_unknown_version_is_told_what_is_missing() -> None:
    figures = parse_metrics("vllm:num_requests_running 1\n")
    assert math.isnan(figures.waiting)
    with pytest.raises(MetricsError, match=r"http://x.*vllm:num_requests_waiting"):
        figures.required("http://x")


def test_the_older_name_of_the_cache_usage_is_known() -> None:
    figures = parse_metrics("vllm:gpu_cache_usage_perc 0.5\n")
    assert figures.kv_usage == 0.5
    assert "vllm:kv_cache_usage_perc" not in figures.missing


TWO_ENGINES = """
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_running{engine="1"} 5.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:num_requests_waiting{engine="1"} 0.0
vllm:kv_cache_usage_perc{engine="0"} 0.9
vllm:kv_cache_usage_perc{engine="1"} 0.6
vllm:lora_requests_info{engine="0",max_lora="4",running_lora_adapters="a"} 10
vllm:lora_requests_info{engine="0",max_lora="4",running_lora_adapters="z"} 9
vllm:lora_requests_info{engine="1",running_lora_adapters="a, b",waiting_lora_adapters="c"} 20
"""


def test_several_engines_behind_one_address_are_added_where_a_sum_means_something() -> None:
    figures = parse_metrics(TWO_ENGINES)
    assert figures.engines == 2
    assert (figures.running, figures.waiting) == (8, 1)
    assert figures.kv_usage == pytest.approx(0.75), "a part of the cache, not of two"
    assert figures.running_adapters == ("a", "b")
    assert figures.waiting_adapters == ("c",)
    assert figures.max_loras == 4
    sizes = """
vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{engine="1",block_size="16",num_gpu_blocks="300"} 1.0
"""
    sized = parse_metrics(TWO_ENGINES + sizes)
    assert sized.kv_usage == pytest.approx((100 * 0.9 + 300 * 0.6) / 400)
    assert sized.kv_cache_tokens == 6400
    assert sized.block_tokens == 16
    assert parse_metrics(TEXT).engines == 1


def test_several_engines_are_not_measured_as_one() -> None:
    """A profile of one engine would get the KV cache and the requests of two."""

    class TwoEngines:
        url = "http://x"

        def metrics(self) -> ServerMetrics:
            return parse_metrics(TWO_ENGINES + TEXT)

    with pytest.raises(VllmError, match=r"expected one engine, .* got 2"):
        describe_server(TwoEngines(), 64, 2048, 16)


@pytest.mark.parametrize(
    "text",
    [
        'vllm:num_requests_running 1e308\nvllm:num_requests_running{a="b"} 1e308\n',
        "vllm:num_requests_running{ 1\n",
        "vllm:num_requests_running one\n",
        "vllm:num_requests_running 1e16\n",
    ],
)
def test_odd_metrics_are_one_error(text: str) -> None:
    with pytest.raises(MetricsError):
        parse_metrics(text)


def test_values_that_are_not_finite_count_as_missing() -> None:
    found = parse_metrics("vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\n")
    assert {"vllm:num_requests_running", "vllm:num_requests_waiting"} <= set(found.missing)


@pytest.mark.parametrize("digits", ["9" * 5000, "\u00b2", "-1", "1.5", ""])
def test_labels_that_are_no_numbers_are_unknown(digits: str) -> None:
    text = f'vllm:cache_config_info{{block_size="{digits}",num_gpu_blocks="{digits}"}} 1\n'
    text += f'vllm:lora_requests_info{{max_lora="{digits}"}} 1\n'
    found = parse_metrics(text)
    assert (found.kv_cache_tokens, found.max_loras) == (None, None)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='vllm:_{}="\\,#0123456789.eE+-NaIinf \n', max_size=80))
def test_any_text_is_metrics_or_one_error(text: str) -> None:
    with contextlib.suppress(MetricsError):
        parse_metrics(text)
