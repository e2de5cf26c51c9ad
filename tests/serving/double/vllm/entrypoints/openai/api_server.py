"""A double of vLLM's API server for tests: it serves no model, it only answers as one would.

It takes vLLM's options, keeps a list of adapters, refuses what vLLM refuses (an adapter twice, a
missing folder, a rank above the largest), and streams made-up tokens, one every `TOKEN_S`.
"""

import argparse
import asyncio
import json
import os
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

TOKEN_S = 0.002


def application(options: argparse.Namespace) -> FastAPI:
    app = FastAPI()
    adapters: dict[str, str] = {}
    counts = {"prompt": 0, "output": 0, "done": 0, "running": 0}
    base = options.served_model_name

    def refuse(message: str, status: int = 400) -> JSONResponse:
        error = {"message": message, "type": "BadRequestError", "code": status}
        return JSONResponse({"error": error}, status_code=status)

    @app.get("/health")
    def health() -> PlainTextResponse:
        return PlainTextResponse("")

    @app.get("/version")
    def version() -> dict:
        return {"version": "double"}

    @app.get("/v1/models")
    def models() -> dict:
        found = [{"id": base, "root": options.model, "parent": None, "max_model_len": 512}]
        found += [{"id": n, "root": p, "parent": base} for n, p in adapters.items()]
        return {"object": "list", "data": found}

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> object:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in adapters:
            return refuse(f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").is_file():
            return refuse(f"No adapter found for {path}", 404)
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > options.max_lora_rank:
            return refuse(f"LoRA rank {rank} is greater than max_lora_rank {options.max_lora_rank}")
        adapters[name] = str(path)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> object:
        name = (await request.json())["lora_name"]
        if adapters.pop(name, None) is None:
            return refuse(f"The lora adapter '{name}' cannot be found.", 404)
        return PlainTextResponse("Success")

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        label = f'{{engine="0",model_name="{base}"}}'
        lines = [
            f"vllm:num_requests_running{label} {counts['running']}",
            f"vllm:num_requests_waiting{label} 0",
            'vllm:num_requests_waiting_by_reason{engine="0",reason="deferred"} 0',
            f"vllm:kv_cache_usage_perc{label} 0.0",
            f"vllm:num_preemptions_total{label} 0",
            f"vllm:prompt_tokens_total{label} {counts['prompt']}",
            f"vllm:generation_tokens_total{label} {counts['output']}",
            f'vllm:request_success_total{{finished_reason="length",model_name="{base}"}} '
            f"{counts['done']}",
            f"vllm:time_to_first_token_seconds_sum{label} 0",
            f"vllm:time_to_first_token_seconds_count{label} 0",
            f'vllm:lora_requests_info{{max_lora="{options.max_loras}",'
            f'running_lora_adapters="",waiting_lora_adapters=""}} {time.time()}',
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="512"} 1',
        ]
        return PlainTextResponse("\n".join(lines) + "\n")

    @app.post("/v1/completions")
    async def complete(request: Request) -> object:
        body = await request.json()
        if body["model"] != base and body["model"] not in adapters:
            return refuse(f"The model `{body['model']}` does not exist.", 404)
        if os.environ.get("VLLM_DOUBLE_DIES") and counts["done"] >= int(
            os.environ["VLLM_DOUBLE_DIES"]
        ):
            os._exit(1)
        prompt = body.get("prompt") or []
        asked = int(body.get("max_tokens", 16))
        usage = {"prompt_tokens": max(len(prompt), 1), "completion_tokens": asked}
        counts["prompt"] += usage["prompt_tokens"]
        counts["output"] += asked
        counts["done"] += 1
        told = "embeds" if "prompt_embeds" in body else "text"
        if not body.get("stream"):
            text = f"{body['model']} at {options.port} from {told}"
            choice = {"index": 0, "text": text, "finish_reason": "length"}
            return {"object": "text_completion", "choices": [choice], "usage": usage}

        async def chunks():
            for _ in range(asked):
                await asyncio.sleep(TOKEN_S)
                yield f"data: {json.dumps({'choices': [{'text': 'x'}]})}\n\n"
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--served-model-name")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--max-loras", type=int, default=0)
    parser.add_argument("--max-lora-rank", type=int, default=16)
    options, _ = parser.parse_known_args()
    if options.model == "broken":
        raise RuntimeError("Error: the double was told to fail")
    uvicorn.run(application(options), host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
