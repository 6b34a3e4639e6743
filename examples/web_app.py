"""A web service that calls a model, with its metrics at /metrics: all workers answer for the service.

Run it with `GENMETER_JOB=service uvicorn --app-dir examples --workers 4 web_app:app`.
"""

import asyncio

from fastapi import FastAPI

from genmeter import GenerationMonitor

monitor = GenerationMonitor()
app = FastAPI(lifespan=monitor.lifespan)  # which pushes what is left as the service ends
app.mount("/metrics", monitor.asgi_app())


@app.get("/answer")
async def answer(question: str) -> dict[str, str]:
    """Answer a question."""
    async with monitor.generation(model="atlas-large", step="answer") as call:
        await asyncio.sleep(0.01)  # stands for a call of a model
        call.usage(prompt_token_count=len(question), completion_token_count=3)
    return {"answer": "Because."}
