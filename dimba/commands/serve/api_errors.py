"""Refusals of a request, in the JSON form of OpenAI's interface."""

from typing import Any

from dimba.common.errors import DimbaError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal: an HTTP status, its cause, and the parameter or a code where there is one."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @classmethod
    def of(cls, error: DimbaError) -> "ApiError":
        """The refusal of a prompt that the model cannot answer."""
        hint = f"; {error.hint}" if error.hint else ""
        return cls(400, f"{error.message}{hint}", param="messages")

    def as_json(self) -> dict[str, Any]:
        """The body of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
