"""A graph that says how many messages its thread has; `langgraph dev` serves it."""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    messages: Annotated[list[str], operator.add]


def answer(state: State) -> State:
    return {"messages": [f"heard {len(state['messages'])}"]}


graph = (
    StateGraph(State)
    .add_node("answer", answer)
    .add_edge(START, "answer")
    .add_edge("answer", END)
    .compile()
)
