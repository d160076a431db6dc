"""One POST to a webhook: to the address that was looked at, once, without redirects, and whatever it answers unread."""

import asyncio
import ssl
from collections.abc import Mapping

import httpx

from services.tenant_quota.webhook_address import Addresses, AddressRefusedError

TIMEOUT_SECONDS = 10.0
USER_AGENT = "Prosa-Webhooks/1"


class PostFailedError(Exception):
    """There was no answer; the text is fit for the tenant."""


class Poster:
    """Posts to webhooks; `trust` decides whose certificates are believed, the system's authorities unless stated."""

    def __init__(
        self,
        addresses: Addresses,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            # No proxy of the environment: it would look names up anew.
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_seconds,
            verify=trust or ssl.create_default_context(),
            # Connections are known by address here, and two hosts may share one: none is used twice.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer; PostFailedError without one."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._post(httpx.URL(url), headers, body)
        except AddressRefusedError as error:
            raise PostFailedError(str(error)) from None
        except (TimeoutError, httpx.TimeoutException):
            raise PostFailedError(f"no answer within {self._timeout_seconds:g} seconds") from None
        except httpx.HTTPError as error:
            raise PostFailedError(_words(error)) from None

    async def close(self) -> None:
        """Breaks off what is under way."""
        await self._client.aclose()

    async def _post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> int:
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await self._addresses.resolve(url.host, port)
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={
                **headers,
                "host": url.netloc.decode("ascii"),
                "content-type": "application/json",
                "user-agent": USER_AGENT,
            },
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        answer = await self._client.send(request, stream=True)
        await answer.aclose()
        return answer.status_code


def _words(error: httpx.HTTPError) -> str:
    """What went wrong, without the address we saw."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not valid: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return "no connection" if isinstance(error, httpx.ConnectError) else "the answer was no HTTP"
