"""Decoders as loops in one graph, in the spellings that exporters and people use, for the examples of a rule."""

from __future__ import annotations

import re
from typing import Any

from edgeattn.program import Program, Stop, Wiring
from edgeattn.rewrite._sample import graph, i64

# One step of a small decoder with dot attention: reads token and h, makes logits, alignment and h_out.
STEP = """
    e = Gather(table, token)
    h_out = Add(e, h)
    q = Unsqueeze(h_out, last)
    k = MatMul(memory, weight)
    s = MatMul(k, q)
    flat = Squeeze(s, last)
    alignment = Softmax <axis = 1> (flat)
    a = Unsqueeze(alignment, last)
    weighted = Mul(a, memory)
    c = ReduceSum <keepdims = 0> (weighted, one)
    both = Add(c, h_out)
    logits = MatMul(both, output)
"""
CHOOSE = "chosen = ArgMax <axis = 1, keepdims = 0> (logits)\n"
MASK = """
    end = Constant <value_int = 1> ()
    next = Where(done, end, chosen)
    is_end = Equal(next, end)
    done_out = Or(done, is_end)
"""
GOING = """
    number = Cast <to = 6> (done_out)
    least = ReduceMin <keepdims = 0> (number)
    all = Cast <to = 9> (least)
    go = Not(all)
"""
BEGIN = """
    memory = Tanh(x)
    h0 = ReduceMax <keepdims = 0> (memory, one)
    n = Shape <start = 0, end = 1> (x)
    start = ConstantOfShape <value = int64[1] {0}> (n)
    open = ConstantOfShape <value = bool[1] {0}> (n)
    trips = Constant <value_int = 6> ()
    yes = Constant <value = bool {1}> ()
"""
WEIGHTS: dict[str, Any] = {"table": (5, 4), "weight": (4, 4), "output": (4, 5)}
CARRIED = "int64 i, bool going, int64[batch] token, bool[batch] done, float[batch,4] h"


def loop(body: str, carried: str, outs: str, call: str, outputs: str, begin: str = "", end: str = "") -> Program:
    """A graph around one Loop.

    Args:
        body: the body's nodes. carried: its inputs. outs: its outputs. call: ``results = Loop(inputs)`` without body.
        outputs: graph outputs. begin, end: nodes before the Loop (after the encoder) and behind it.
    """
    results, inputs = call.split(" = ")
    text = f"""(float[batch,source,4] x) => ({outputs}) {{
        {BEGIN} {begin}
        {results} = Loop ({inputs}) <body = turn ({carried}) => ({outs}) {{ {body} }}>
        {end} }}"""
    return Program({"main": graph(text, one=i64(1), last=i64(2), **WEIGHTS)})


def stacked(mask: str = MASK, going: str = GOING, step: str = STEP + CHOOSE, outputs: str = "") -> Program:
    """Tokens and alignment as scan outputs of a Loop."""
    return loop(
        step + mask + going,
        CARRIED,
        "bool go, int64[batch] next, bool[batch] done_out, float[batch,4] h_out, int64[batch] next, "
        "float[batch,source] alignment",
        "t9, d9, h9, tokens, attention = trips, yes, start, open, h0",
        outputs or "int64[steps,batch] tokens, float[steps,batch,source] attention",
    )


def concatenated() -> Program:
    """Tokens grown by Concat, as scripted while loops are exported; the logits along axis 1."""
    body = f"""{STEP} {CHOOSE} {MASK} {GOING}
        column = Unsqueeze(next, one)
        tokens_out = Concat <axis = 1> (tokens_in, column)
        layer = Unsqueeze(logits, one)
        all_out = Concat <axis = 1> (all_in, layer)"""
    return loop(
        body,
        f"{CARRIED}, int64[batch,t] tokens_in, float[batch,t,5] all_in",
        "bool go, int64[batch] next, bool[batch] done_out, float[batch,4] h_out, int64[batch,u] tokens_out, "
        "float[batch,u,5] all_out",
        "t9, d9, h9, tokens, scores = trips, yes, start, open, h0, none, no_scores",
        "int64[batch,steps] tokens, float[batch,steps,5] scores",
        begin="""zero = Constant <value_ints = [0]> ()
        size = Concat <axis = 0> (n, zero)
        none = ConstantOfShape <value = int64[1] {0}> (size)
        five = Constant <value_ints = [0, 5]> ()
        larger = Concat <axis = 0> (n, five)
        no_scores = ConstantOfShape <value = float[1] {0}> (larger)""",
    )


def buffered() -> Program:
    """Tokens put into a buffer of ends by position, as ``while_loop`` needs it; a counter ends the loop."""
    body = f"""{STEP} {CHOOSE} {MASK} {GOING}
        here = Equal(places, t)
        column = Unsqueeze(next, one)
        tokens_out = Where(here, column, tokens_in)
        step_one = Constant <value_int = 1> ()
        t_out = Add(t, step_one)
        six = Constant <value_int = 6> ()
        short = Less(t_out, six)
        more = And(short, go)"""
    return loop(
        body,
        f"{CARRIED}, int64 t, int64[batch,6] tokens_in",
        "bool more, int64[batch] next, bool[batch] done_out, float[batch,4] h_out, int64 t_out, "
        "int64[batch,6] tokens_out",
        "t9, d9, h9, c9, ids = , yes, start, open, h0, zero, filled",
        "int64[batch,6] ids",
        begin="""zero = Constant <value_int = 0> ()
        places = Constant <value_ints = [0, 1, 2, 3, 4, 5]> ()
        width = Constant <value_ints = [6]> ()
        size = Concat <axis = 0> (n, width)
        filled = ConstantOfShape <value = int64[1] {1}> (size)""",
    )


def counted() -> Program:
    """A fixed number of steps, no end token; the decoder reads the turn's number, by TopK as a column."""
    step = (
        STEP.replace("Gather(table, token)", "Gather(table, row)")
        + """two = Constant <value_ints = [1]> ()
        best, chosen = TopK <axis = 1> (logits, two)
        next = Identity(chosen)
        go = Identity(going)"""
    )
    position = """row_ = Squeeze(token, one)
        place = Cast <to = 1> (i)
        row = Identity(row_)"""
    return loop(
        position + step.replace("h_out = Add(e, h)", "h_ = Add(e, h)\n h_out = Add(h_, place)"),
        "int64 i, bool going, int64[batch,1] token, float[batch,4] h",
        "bool go, int64[batch,1] next, float[batch,4] h_out, float[batch,5] logits",
        "t9, h9, logits_all = trips, yes, first, h0",
        "float[steps,batch,5] logits_all",
        begin="first = Unsqueeze(start, one)",
    )


def scanned() -> Program:
    """A Scan over given tokens: teacher forcing."""
    text = f"""(float[batch,source,4] x, int64[batch,target] given) =>
        (float[target,batch,5] scores, float[target,batch,source] attention) {{
        memory = Tanh(x)
        h0 = ReduceMax <keepdims = 0> (memory, one)
        turned = Transpose <perm = [1, 0]> (given)
        h9, scores, attention = Scan <num_scan_inputs = 1, body = turn (float[batch,4] h, int64[batch] token)
            => (float[batch,4] h_out, float[batch,5] logits, float[batch,source] alignment) {{ {STEP} }}
        > (h0, turned) }}"""
    return Program({"main": graph(text, one=i64(1), last=i64(2), **WEIGHTS)})


def decoders() -> list[Program]:
    """Every spelling that becomes a step."""
    return [stacked(), concatenated(), buffered(), counted(), scanned()]


def unmasked() -> Program:
    """Rows that have ended are fed their own choice."""
    mask = MASK.replace("next = Where(done, end, chosen)", "next = Identity(chosen)")
    return stacked(mask)


def others() -> list[Program]:
    """No loop; two loops; unmasked rows; an output that is the last state; one from the encoder; unrolled steps."""
    plain = graph("(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }")
    last = stacked(outputs="int64[steps,batch] tokens, float[batch,4] h9")
    early = stacked(outputs="int64[steps,batch] tokens, float[batch,source,4] memory")
    return [Program({"main": plain}), unmasked(), last, early, unrolled(), twice()]


def unrolled() -> Program:
    """Four steps one after another, as tracing a Python loop gives them."""
    lines, token, h = [], "start", "h0"
    for number in range(4):
        step = STEP + CHOOSE
        for name in ("e", "h_out", "q", "k", "s", "flat", "alignment", "a", "weighted", "c", "both", "logits"):
            step = _word(step, name, f"{name}_{number}")
        step = _word(_word(step, "token", token), "h", h)
        lines.append(_word(step, "chosen", f"chosen_{number}"))
        token, h = f"chosen_{number}", f"h_out_{number}"
    text = f"""(float[batch,source,4] x) => (float[batch,5] logits_3) {{ {BEGIN} {"".join(lines)} }}"""
    return Program({"main": graph(text, one=i64(1), last=i64(2), **WEIGHTS)})


def twice() -> Program:
    """Two loops in one graph."""
    text = """(float[batch,4] x) => (float[batch,4] y) {
        n = Constant <value_int = 3> ()
        yes = Constant <value = bool {1}> ()
        m = Loop (n, yes, x) <body = one (int64 i, bool g, float[batch,4] a) => (bool h, float[batch,4] b) {
            h = Identity(g)
            b = Relu(a) }>
        y = Loop (n, yes, m) <body = two (int64 j, bool k, float[batch,4] c) => (bool l, float[batch,4] d) {
            l = Identity(k)
            d = Tanh(c) }> }"""
    return Program({"main": graph(text)})


def wired(handed: bool = True, alignment: str = "alignment") -> Program:
    """A translator in small: dot attention over a memory, one state, five tokens."""
    first = ", float[batch,4] first" if handed else ""
    encoder = graph(
        f"""(float[batch,source,4] x) => (float[batch,source,4] memory{first}) {{
            memory = Tanh(x)
            {"first = ReduceMax <keepdims = 0> (memory, one)" if handed else ""} }}""",
        one=i64(1),
    )
    step = graph(
        f"""(int64[batch] token, float[batch,4] h, float[batch,source,4] memory)
            => (float[batch,5] logits, float[batch,source] {alignment}, float[batch,4] h_out) {{
            e = Gather(table, token)
            h_out = Add(e, h)
            q = Unsqueeze(h_out, last)
            s = MatMul(memory, q)
            scores = Squeeze(s, last)
            {alignment} = Softmax <axis = 1> (scores)
            a = Unsqueeze({alignment}, last)
            weighted = Mul(a, memory)
            c = ReduceSum <keepdims = 0> (weighted, one)
            both = Add(c, h_out)
            logits = MatMul(both, output) }}""",
        table=(5, 4),
        output=(4, 5),
        one=i64(1),
        last=i64(2),
    )
    feeds = {"step.memory": "encoder.memory"} | ({"step.h": "encoder.first"} if handed else {})
    wiring = Wiring(feeds, {"step.h": "step.h_out"}, Stop("step.token", "step.logits", 0, 1, 6))
    return Program({"encoder": encoder, "step": step}, wiring)


def _word(text: str, old: str, new: str) -> str:
    """``text`` with a whole word replaced."""
    return re.sub(rf"\b{old}\b", new, text)
