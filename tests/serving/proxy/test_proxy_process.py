from pathlib import Path

import pytest

from maitre.files import write_text
from maitre.processes.ports import free_port
from maitre.processes.service_error import ServiceError
from maitre.serving.proxy.proxy_process import ProxyProcess
from maitre.serving.proxy.routes import RoutedServer, Routes


def test_it_is_started_where_servers_are_routed_and_found_when_it_is_there(tmp_path: Path) -> None:
    port, model = free_port(), ("tiny", str(tmp_path))
    assert ProxyProcess.start_where_routed(tmp_path, tmp_path, port, model) is None
    routes = Routes({"s": RoutedServer("http://127.0.0.1:1", "tiny")})
    write_text(tmp_path / "routes.json", routes.to_json())
    started = ProxyProcess.start_where_routed(tmp_path, tmp_path, port, model)
    assert started is not None
    try:
        started.wait_until_ready()
        found = ProxyProcess.start_where_routed(tmp_path, tmp_path, port, model)
        assert found is not None
        assert found.process is None
        found.stop()
        started.wait_until_ready()
        assert not started.ended()
        other = tmp_path / "other checkout"
        write_text(other / "routes.json", routes.to_json())
        with pytest.raises(ServiceError, match=f"is the proxy of {tmp_path}; give another"):
            ProxyProcess.start_where_routed(other, tmp_path, port, model)
    finally:
        started.stop()
    assert started.process is not None
    assert started.ended()
    with pytest.raises(ServiceError, match=r"ended; see .*proxy\.log"):
        started.wait_until_ready()
