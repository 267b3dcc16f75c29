"""A graph that says for whom it works, and keeps shared values by who that is."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph_sdk.auth import is_studio_user
from langgraph_sdk.runtime import ServerRuntime
from typing_extensions import TypedDict

from devserver import SharedValue


class State(TypedDict, total=False):
    note: str
    gate: str
    seen: dict[str, Any]
    notes: Annotated[dict[str, Any], SharedValue.on("langgraph_auth_user_id")]


async def wait(state: State) -> dict[str, Any]:
    while state.get("gate") and not Path(state["gate"]).exists():
        await asyncio.sleep(0.005)
    return {}


def look(state: State, config: RunnableConfig) -> dict[str, Any]:
    configurable = config["configurable"]
    user = configurable["langgraph_auth_user"]
    seen = {
        "id": configurable["langgraph_auth_user_id"],
        "permissions": configurable["langgraph_auth_permissions"],
        "user_id": configurable["user_id"],
        "name": user.display_name,
        "team": user.get("team"),
        "studio": is_studio_user(user),
        "notes": sorted(state["notes"]),
    }
    return {"seen": seen, "notes": {state["note"]: {}} if state.get("note") else {}}


graph = StateGraph(State).add_node(wait).add_node(look).add_edge("__start__", "wait").add_edge("wait", "look").compile()


class Made(TypedDict, total=False):
    made_for: str
    access: str


async def make(runtime: ServerRuntime[Any]) -> Any:
    user = runtime.ensure_user()

    def tell(state: Made) -> dict[str, Any]:
        return {"made_for": user.identity, "access": runtime.access_context}

    return StateGraph(Made).add_node(f"of_{user.identity}", tell).add_edge("__start__", f"of_{user.identity}")
