"""tenant_quota on a store that does nothing: what its calls cost when keeping the account costs nothing.

Takes the settings of `python -m services.tenant_quota`.
"""

from datetime import UTC, datetime

import uvloop

from services.tenant_quota import __main__ as service
from services.tenant_quota.quota_model import Reservation, Settlement, State, Wish
from services.tenant_quota.reservations import Reservations

HELD = datetime.now(UTC)


class Nothing(Reservations):
    """Grants and settles whatever is asked and remembers none of it."""

    async def reserve(self, wish: Wish) -> Reservation:
        return Reservation(wish.reservation_id, wish.user_id, State.HELD, wish.tokens, HELD, HELD)

    async def settle(self, settlement: Settlement) -> Reservation:
        usage, source = settlement.usage, settlement.usage_source
        return Reservation(settlement.reservation_id, "", settlement.target, 0, HELD, HELD, usage, source, 0)


if __name__ == "__main__":
    service.Reservations = Nothing  # type: ignore[attr-defined]
    uvloop.run(service.main())
