"""A real Chromium for tests, by its DevTools protocol over a pipe: nothing has to be installed beside it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = {"Tab": 9, "Enter": 13}


class Page:
    """A tab. `events` are all that it has told so far, by their names."""

    def __init__(self, into: int, out: int):
        self.into, self.out, self.rest, self.number, self.session = into, out, b"", 0, {}
        self.events: list[tuple[str, dict]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def message(self) -> dict:
        while b"\0" not in self.rest:
            part = os.read(self.out, 1 << 16)
            assert part, "the browser has gone"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **params: object) -> dict:
        """A command of the protocol: its result."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.into, json.dumps(command).encode() + b"\0")
        while (message := self.message()).get("id") != self.number:
            self.events.append((message.get("method"), message.get("params")))
        assert "error" not in message, message
        return message["result"]

    def js(self, expression: str) -> object:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        self.js(
            "new Promise((yes, no) => { const look = () => { try { if (" + condition + ") return yes(); } catch (e) {} "
            "setTimeout(look, 20); }; look(); setTimeout(() => no('never: ' + document.body.innerText), 60000); })"
        )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        down = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)


@contextmanager
def browser() -> Iterator[Page]:
    """Headless, with a profile of its own."""
    their_in, into = os.pipe()
    out, their_out = os.pipe()
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def wire() -> None:  # the protocol's pipes are 3 and 4
            a, b = os.dup(their_in), os.dup(their_out)
            os.dup2(a, 3)
            os.dup2(b, 4)

        process = subprocess.Popen(
            [*words, "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            preexec_fn=wire,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        try:
            page = Page(into, out)
            yield page
            with suppress(AssertionError):
                page.call("Browser.close")
        finally:
            process.terminate()
            process.wait()
            os.close(into)
            os.close(out)
