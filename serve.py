"""A trained model over HTTP, and a page to try it: http://127.0.0.1:8000

    python serve.py runs/x --port 8000
    curl --json '{"texts": ["A quiet, wonderful film."]}' http://127.0.0.1:8000/predict/sst

docs/serve.md has the rest. SIGTERM and Ctrl-C end it once every request is answered. Needs the extra:
pip install -e '.[serve]'
"""

import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

from bert.precision import DEVICES, PRECISIONS, resolve_device, resolve_precision
from evaluate import load_model
from runtime.errors import UsageError, run_cli, say
from runtime.settings import OptionParser, non_negative_int
from web.batcher import Batcher
from web.limits import Limits


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address. Raises UsageError if the address is not free, or not this machine's."""
    if port > 65535:
        raise UsageError(f"--port: expected 65535 at most; found {port}")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        found = f"found {host}:{port}: {error}"
        raise UsageError(f"--host, --port: expected a free address of this machine; {found}; take another") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small answers wait 40 ms for the client's ACK
    return listener


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or a model's")
    port_help = "0: any that is free (default: 8000)"
    parser.add_argument("--port", type=non_negative_int, default=8000, metavar="N", help=port_help)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for other machines too (default: 127.0.0.1)")
    for field in fields(Limits):
        parser.add_argument(f"--{field.name}", default=field.default, **field.metadata["argparse"])
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    parser.add_argument("--amp", choices=PRECISIONS, default="auto", help="precision (default: auto, the fastest)")
    args = parser.parse_args(argv)
    try:
        import uvicorn

        from web.app import compute, make_app
    except ImportError as error:
        raise UsageError(f"serve.py: expected fastapi and uvicorn; {error}; pip install -e '.[serve]'") from None
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    device = resolve_device(args.device)
    amp = resolve_precision(args.amp, device)
    with listen(args.host, args.port) as listener:
        model = load_model(args.run).to(device)
        with Batcher(partial(compute, model, amp), limits.max_texts) as batcher:
            app = make_app(model, str(args.run), batcher, limits)
            patience = int(2 * limits.max_seconds) + 1  # longer than any request, for clients that read no answer
            config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=patience)
            server = uvicorn.Server(config)
            host, port = listener.getsockname()[:2]
            say(f"http://{f'[{host}]' if ':' in host else host}:{port} has {', '.join(model.tasks)}; Ctrl-C ends it")
            try:
                server.run([listener])
            except KeyboardInterrupt:  # uvicorn passes the signal on once every request is answered
                if server.force_exit or not server.should_exit:
                    raise
        say(f"ended; {batcher.jobs:,} requests answered")


if __name__ == "__main__":
    sys.exit(run_cli(main))
