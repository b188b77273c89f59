"""A session that pauses for a tool, on a real model with real KV memory."""

from rlkv.engine_setup import build_engine, load

loaded = load("tiny")
engine = build_engine(loaded)
session = engine.add_session(
    loaded.tokenizer("What is in the file?")["input_ids"], max_new_tokens=20
)
while not any(token.end for token in engine.step()):
    pass  # other sessions may come and go
engine.pause(session, "read")  # the tool runs; a policy decides where the KV waits
engine.step()
engine.resume(session, loaded.tokenizer(" It says: hello.")["input_ids"], max_new_tokens=20)
while not any(token.end for token in engine.step()):
    pass
print(loaded.tokenizer.decode(engine.tokens(session)))
print(f"{engine.cached_tokens(session)} tokens of the prompt did not have to be computed")
engine.cancel(session)
engine.close()
