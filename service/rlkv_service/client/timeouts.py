"""For how long the clients try, seconds. None of it keeps a caller waiting, but ``close``."""

#: Connecting, and writing outcomes.
CONNECT_TIMEOUT_S = 1.0
#: A probe is answered by then or not at all. Longer than deadlines are, since a busy interpreter
#: keeps a background thread waiting; whether decisions come in time is seen with decisions.
PROBE_TIMEOUT_S = 0.5
#: What goes on is waited for so long when a client closes; its thread is a daemon, which does not
#: keep the process.
CLOSE_TIMEOUT_S = 2.5
#: The server lets go of a wait for answers so often, and it is begun again.
ANSWERS_WAIT_S = 5.0
