"""An engine asks a sidecar about its paused sessions, and reports what came of them.

    rlkv serve &
    python examples/decision_client.py unix://$PWD/rlkv-data/valkey.sock

Without a sidecar, or without an argument, a local rule answers: the program is the same.
"""

import sys

from rlkv_service.client import Client, Outcome, Point, Reason, SessionEnd, Verb, decision_rows


def main(url: str = "unix:///run/rlkv/valkey.sock", deadline_ms: float = 200.0) -> Reason:
    """Asks about three sessions that called a tool, and returns why it was decided as it was.

    The deadline is long for a program that asks once: the first answer waits for the connection,
    too. Without it, it is 5 ms.
    """
    with Client(url, engine_id="example", deadline_ms=deadline_ms) as client:
        sessions = ["alice", "bob", "carol"]
        rows = decision_rows(
            sessions,
            [0, 4, 2],
            ["search", "shell", "ask_human"],
            # The machine and its model.
            block_size=16,
            num_device_blocks=4096,
            num_host_blocks=8192,
            max_num_seqs=64,
            prefill_token_s=8e-5,
            swap_out_block_s=1e-4,
            swap_in_block_s=1e-4,
            # The moment, and the three of them; what is not known is left out.
            point=Point.CALL,
            free_blocks=300,
            host_free_blocks=5000,
            context_tokens=[1800, 22000, 6400],
        )
        verdicts = client.decide(rows)
        for i, session in enumerate(sessions):
            verb, reason = Verb(verdicts.verb[i]), Reason(verdicts.reason[i])
            print(
                f"{session}: {verb.name}, back in about {verdicts.expected_return_p50_s[i]:.1f} s,"
                f" because of {reason.name}"
            )
        outcome = Outcome(1, "example", "alice", 0, "search", pause_s=1.2, context_tokens=1800)
        written = client.report([outcome]) and client.end([SessionEnd(1, "example", "bob", 4)])
        print("the server has what came of it" if written else "nobody to report to")
        return reason


if __name__ == "__main__":
    main(*sys.argv[1:])
