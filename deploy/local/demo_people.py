"""Who answers in the demo: an assistant for everything, two that know some of the documents, and the team of the three.

Found again by their names: whoever is there is left as a visitor has changed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.local.demo_calls import CALL_SECONDS, Caller
from prosa.document_rag.v1 import assistant_service_pb2 as assistants
from prosa.document_rag.v1 import team_service_pb2 as teams

ASSISTANT_NAME = "Assistente da Prefeitura"
INSTRUCTIONS = (
    "Você é o assistente da Prefeitura de Exemplo. Responda em português, com clareza e cortesia, somente com "
    "base nos documentos da prefeitura. Quando a resposta não estiver neles, diga isso e indique a Central de "
    "Atendimento 156."
)
TEAM_NAME = "Atendimento da Prefeitura"


@dataclass(frozen=True)
class Specialist:
    """An assistant that knows these files."""

    name: str
    description: str
    keywords: tuple[str, ...]
    files: tuple[str, ...]


SPECIALISTS = (
    Specialist(
        "Tributos e licenças",
        "IPTU, ISS, ITBI, taxas, alvarás e licenças.",
        ("IPTU", "imposto", "taxa", "alvará", "licença", "nota fiscal"),
        ("iptu_e_tributos_2027.md", "alvaras_e_licencas.html"),
    ),
    Specialist(
        "Serviços da cidade",
        "Coleta de lixo, iluminação pública, ruas, escolas e postos de saúde.",
        ("lixo", "coleta", "entulho", "poste", "matrícula", "vacina"),
        (
            "coleta_de_lixo.md",
            "horarios_de_atendimento.txt",
            "iluminacao_publica_e_ouvidoria.txt",
            "matricula_escolar_2027.md",
            "postos_de_saude.html",
        ),
    ),
)


async def assistant_of(hall: Any, owner: Caller) -> str:
    """The id of the assistant that reads everything."""
    wanted = assistants.Assistant(display_name=ASSISTANT_NAME, instructions=INSTRUCTIONS)
    return await _assistant(hall, owner, wanted)


async def team_of(hall: Any, house: Any, owner: Caller, leader_id: str, documents: Mapping[str, str]) -> str:
    """The id of the team that the assistant leads; `documents` are the ids of the documents by their file names."""
    members = [await _assistant(hall, owner, _wanted(each, documents)) for each in SPECIALISTS]
    listed = await house.ListTeams(teams.ListTeamsRequest(page_size=1000), metadata=await owner(), timeout=CALL_SECONDS)
    for team in listed.teams:
        if team.display_name == TEAM_NAME:
            return str(team.team_id)
    wanted = teams.Team(
        display_name=TEAM_NAME,
        description="Responde perguntas que tocam vários assuntos de uma vez.",
        leader_id=leader_id,
        member_ids=members,
        strategy=teams.TEAM_STRATEGY_COORDINATE,
    )
    made = await house.CreateTeam(teams.CreateTeamRequest(team=wanted), metadata=await owner(), timeout=CALL_SECONDS)
    return str(made.team_id)


def _wanted(specialist: Specialist, documents: Mapping[str, str]) -> assistants.Assistant:
    return assistants.Assistant(
        display_name=specialist.name,
        description=specialist.description,
        instructions=INSTRUCTIONS,
        keywords=specialist.keywords,
        document_ids=[documents[name] for name in specialist.files],
    )


async def _assistant(hall: Any, owner: Caller, wanted: assistants.Assistant) -> str:
    listed = await hall.ListAssistants(
        assistants.ListAssistantsRequest(page_size=1000), metadata=await owner(), timeout=CALL_SECONDS
    )
    for assistant in listed.assistants:
        if assistant.display_name == wanted.display_name:
            return str(assistant.assistant_id)
    request = assistants.CreateAssistantRequest(assistant=wanted)
    created = await hall.CreateAssistant(request, metadata=await owner(), timeout=CALL_SECONDS)
    return str(created.assistant_id)
