"""`dimba serve`: a model behind an OpenAI-compatible interface until Ctrl-C."""

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING

from dimba.cli import render
from dimba.cli.models import model_request
from dimba.common.errors import Interrupted

if TYPE_CHECKING:
    from dimba.commands.serve.serve import Address


def serve(args: argparse.Namespace) -> None:
    """Serve a model until it is interrupted."""
    from dimba.commands.serve.serve import ServeRequest
    from dimba.commands.serve.serve import serve as serve_model
    from dimba.jobs.lifecycle import interrupted, signals

    reporter = render.reporter()
    how = {"port": args.port, "engine": args.engine, "key_variable": args.api_key_env}
    request = ServeRequest(model=args.model, where=model_request(args), **how)
    try:
        with signals(interrupted):
            serve_model(request, reporter, lambda address: _show(address, args))
    except KeyboardInterrupt:
        raise Interrupted("ended: nothing of it is left running", "") from None
    finally:
        reporter.ended()


def _show(address: "Address", args: argparse.Namespace) -> None:
    if args.json:
        sys.stdout.write(json.dumps({"url": address.url, "model": address.model}, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{address.model} answers at {address.url} until Ctrl-C\n")
        sys.stdout.write(f"{_example(address, args.api_key_env)}\n")
    sys.stdout.flush()


def _example(address: "Address", key_variable: str | None) -> str:
    body = {"model": address.model, "messages": [{"role": "user", "content": "Hello"}]}
    key = f' -H "Authorization: Bearer ${key_variable}"' if key_variable else ""
    head = f"curl {address.url}/chat/completions -H 'Content-Type: application/json'{key}"
    return f"{head} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
