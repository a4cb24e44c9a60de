"""A text that shows a fault of a pass again: the pipeline and the graph it was given."""

from __future__ import annotations

from qcompile.ir.graph import Graph
from qcompile.ir.printer import print_graph


def reproducer_text(graph: Graph, pipeline: str, problem: str) -> str:
    """Return a .qir text: comment, pipeline, graph.

    Large constants are replaced by seeded noise of the same spread, so that the text stays readable and holds
    no weights of the user's model.

    Args:
        graph: what the failing pass was given.
        pipeline: the failing pass, as text.
        problem: the message.
    """
    comment = "".join(f"// {line}\n" for line in problem.splitlines())
    return f"{comment}// pipeline: {pipeline}\n{print_graph(graph, noise=True)}"
