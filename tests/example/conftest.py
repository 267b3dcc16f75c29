"""The tests of the example agent: `pytest tests/example`, in the folder of langgraph.json."""

pytest_plugins = ["devserver"]
