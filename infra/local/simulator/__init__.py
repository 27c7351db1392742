"""A provider on this machine: OpenAI's HTTP API with scripted limits and faults, and a journal of every call.

    python -m infra.local.simulator --port 0 [--host 127.0.0.1] [--script FILE.json] [--journal FILE.jsonl]
                                    [--port-file FILE]

Without a script every key is good. With one (`script.Script`):

    {"unknown_keys": "reject", "keys": [{"name": "primary", "api_key": "sk-…", "requests_per_minute": 60}]}

Under `/v1`, with `Authorization: Bearer …`: `POST /chat/completions` and `/responses` (both also streamed),
`/embeddings`, `/moderations`, `/images/generations`, and `GET /models`, which no limit or quota refuses.

Without authorization, `/admin` on loopback only; what is wrong is answered with 422 and `{"error": …}`:

    GET    /healthz                       {"status": "ok", "in_flight": calls without an answer yet}
    GET    /admin/journal?since=&key=     {"calls": [...]}: `journal.Call`, in order of their ends
    DELETE /admin/journal                 forgets them; the file keeps its lines
    GET    /admin/keys                    the script without secrets
    PUT    /admin/keys/{name}             a key's script, whole; without `api_key` it keeps the one it has
    PUT    /admin/script                  the whole script

A key whose script is replaced has still used what it used: its limits go on from there.
"""

from infra.local.simulator.app import MAX_BODY_BYTES, PROVIDER, create_app

__all__ = ["MAX_BODY_BYTES", "PROVIDER", "create_app"]
