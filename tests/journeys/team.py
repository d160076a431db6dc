"""A team of a journey's tenant: two members that know one document each, led by the tenant's assistant."""

from tests.journeys.tenant import Tenant

QUESTION = "Quando vence a cota única e quando passa a coleta de lixo?"

_FILES = {
    "Tributos": ("iptu.md", "A cota única do IPTU vence em 10 de março de 2027 e tem desconto de 12%.\n", "IPTU"),
    "Limpeza": ("lixo.md", "A coleta de lixo passa às terças e quintas-feiras, a partir das 7 horas.\n", "lixo"),
}


def new_team(tenant: Tenant, strategy: str, models: tuple[str, str] = ("extractive", "extractive")) -> str:
    """The id of a team of Tributos and Limpeza, whose answers come from these models; Atendente leads."""
    members = []
    for model, (name, (filename, text, keyword)) in zip(models, _FILES.items(), strict=True):
        document = tenant.admin.upload(filename, text.encode())["document"]
        assistant = {
            "displayName": name,
            "model": model,
            "documentIds": [document["documentId"]],
            "keywords": [keyword],
        }
        members.append(tenant.admin.post("/v1/assistants", {"assistant": assistant})["assistantId"])
    lead = {"assistant": {"displayName": "Atendente"}, "updateMask": "displayName"}
    tenant.admin.call("PATCH", f"/v1/assistants/{tenant.assistant_id}", lead)
    team = {
        "displayName": "Atendimento",
        "leaderId": tenant.assistant_id,
        "memberIds": members,
        "strategy": strategy,
    }
    return str(tenant.admin.post("/v1/teams", {"team": team})["teamId"])
