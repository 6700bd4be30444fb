"""Queue a workflow and print, as JSON, what its front end is shown while it runs. Run by ComfyUI's own Python.

usage: listen.py URL WORKFLOW.json; prints [[node, "image/jpeg" or the like, picture in hex], ...]
"""

import asyncio
import json
import struct
import sys
from pathlib import Path

import aiohttp

PREVIEW_WITH_METADATA = 4


async def main(url: str, workflow: str) -> None:
    shown = []
    async with aiohttp.ClientSession(url) as session, session.ws_connect("/ws?clientId=listener", max_msg_size=0) as ws:
        await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        body = {"prompt": json.loads(Path(workflow).read_text()), "client_id": "listener"}
        async with session.post("/prompt", json=body) as answer:
            prompt = (await answer.json())["prompt_id"]
        async for message in ws:
            if message.type == aiohttp.WSMsgType.BINARY:
                kind, length = struct.unpack(">II", message.data[:8])
                if kind == PREVIEW_WITH_METADATA:
                    about = json.loads(message.data[8 : 8 + length])
                    shown.append([about["node_id"], about["image_type"], message.data[8 + length :].hex()])
            elif message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                over = event["type"] in ("execution_success", "execution_error", "execution_interrupted")
                if over and event["data"]["prompt_id"] == prompt:
                    break
    print(json.dumps(shown))


asyncio.run(main(*sys.argv[1:]))
