"""What a second tenant sends to every RPC when it knows every id of the first, and what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from prosa.tenant_quota.v1 import tenant_service_pb2
from prosa.tenant_quota.v1.tenant_service_pb2_grpc import TenantServiceStub
from tests.house.processes import System
from tests.journeys.tenant import Tenant

CANARY = "CANARIO"
SECRET_TEXT = f"{CANARY} o cofre da prefeitura abre com a senha azul-turquesa."

SAME_ID = "atendimento-1"

NOT_FOUND = grpc.StatusCode.NOT_FOUND
DENIED = grpc.StatusCode.PERMISSION_DENIED
OK = grpc.StatusCode.OK
NO_COST = {"input_micros": 0, "cached_input_micros": 0, "output_micros": 0, "reasoning_micros": 0}


@dataclass(frozen=True)
class World:
    """Two tenants, and the ids of everything the first one owns."""

    system: System
    first: Tenant
    second: Tenant
    user_id: str
    email: str
    session_id: str
    key_id: str
    conversation_id: str
    message_id: str
    document_id: str
    reservation_id: str
    webhook_id: str
    collection_id: str
    team_id: str
    analysis_id: str

    def token(self, key: str) -> str:
        """A token for an API key, good for seconds."""
        with grpc.insecure_channel(self.system.demo["services"]["tenant_quota"]) as channel:
            request = tenant_service_pb2.AuthenticateRequest(credential=key)
            return TenantServiceStub(channel).Authenticate(request, timeout=30).access_token


@dataclass(frozen=True)
class Case:
    """What the second tenant sends and what must come of it; `id_field` is the id that is swapped for a missing one."""

    fields: Callable[[World], dict[str, Any]]
    expected: grpc.StatusCode
    id_field: str = ""


def _foreign_tenant(**more: Any) -> Case:
    return Case(lambda world: {"tenant_id": world.first.tenant_id, **more}, DENIED, "tenant_id")


def _foreign_user(**more: Any) -> Case:
    """The user of the first tenant, looked for in the second."""
    return Case(
        lambda world: {"tenant_id": world.second.tenant_id, "user_id": world.user_id, **more}, NOT_FOUND, "user_id"
    )


def _foreign_chunks(**more: Any) -> Case:
    """The collection of the first tenant."""
    return Case(lambda world: {"collection_id": world.collection_id, **more}, NOT_FOUND, "collection_id")


def _foreign_webhook(**more: Any) -> Case:
    return Case(
        lambda world: {"tenant_id": world.second.tenant_id, "webhook_id": world.webhook_id, **more},
        NOT_FOUND,
        "webhook_id",
    )


def _foreign_conversation(**more: Any) -> Case:
    """The conversation of the first tenant, with the ids of what is in it."""
    return Case(lambda world: {"conversation_id": world.conversation_id, **more}, NOT_FOUND, "conversation_id")


def _foreign_document(**more: Any) -> Case:
    return Case(lambda world: {"document_id": world.document_id, **more}, NOT_FOUND, "document_id")


def _foreign_message(**more: Any) -> Case:
    return Case(
        lambda world: {"conversation_id": world.conversation_id, "message_id": world.message_id, **more},
        NOT_FOUND,
        "conversation_id",
    )


def _foreign_team(**more: Any) -> Case:
    return Case(lambda world: {"team_id": world.team_id, **more}, NOT_FOUND, "team_id")


CASES: dict[str, Case] = {
    "TenantService.Authenticate": Case(lambda world: {"credential": "pk_live_x_y_z"}, grpc.StatusCode.UNAUTHENTICATED),
    "TenantService.CreateTenant": Case(lambda world: {"display_name": "x"}, DENIED),
    "TenantService.GetTenant": _foreign_tenant(),
    "TenantService.ListTenants": Case(lambda world: {}, DENIED),
    "TenantService.UpdateTenant": _foreign_tenant(tenant={}, update_mask={"paths": ["display_name"]}),
    "TenantService.DeactivateTenant": _foreign_tenant(),
    "TenantService.ActivateTenant": _foreign_tenant(),
    "TenantService.CreateUser": _foreign_tenant(display_name="x", email="x@example.com", role=3),
    "TenantService.GetUser": Case(
        lambda world: {"tenant_id": world.second.tenant_id, "user_id": world.user_id}, NOT_FOUND, "user_id"
    ),
    "TenantService.ListUsers": _foreign_tenant(),
    "TenantService.UpdateUser": Case(
        lambda world: {
            "tenant_id": world.second.tenant_id,
            "user_id": world.user_id,
            "user": {"display_name": "x"},
            "update_mask": {"paths": ["display_name"]},
        },
        NOT_FOUND,
        "user_id",
    ),
    # It erases nobody of the first tenant, and says the same of a user who is nowhere.
    "TenantService.EraseUser": Case(lambda world: {"tenant_id": world.second.tenant_id, "user_id": world.user_id}, OK),
    "TenantService.CreateApiKey": Case(
        lambda world: {"tenant_id": world.second.tenant_id, "user_id": world.user_id, "role": 3}, NOT_FOUND, "user_id"
    ),
    "TenantService.ListApiKeys": _foreign_tenant(),
    "TenantService.RevokeApiKey": Case(
        lambda world: {"tenant_id": world.second.tenant_id, "key_id": world.key_id}, NOT_FOUND, "key_id"
    ),
    "TenantService.UpdateApiKey": Case(
        lambda world: {
            "tenant_id": world.second.tenant_id,
            "key_id": world.key_id,
            "api_key": {"display_name": "x"},
            "update_mask": {"paths": ["display_name"]},
        },
        NOT_FOUND,
        "key_id",
    ),
    "TenantService.RotateApiKey": Case(
        lambda world: {"tenant_id": world.second.tenant_id, "key_id": world.key_id}, NOT_FOUND, "key_id"
    ),
    "SessionService.Login": Case(
        lambda world: {"email": world.email, "password": "a guess that is wrong"}, grpc.StatusCode.UNAUTHENTICATED
    ),
    "SessionService.Logout": Case(lambda world: {}, NOT_FOUND),
    "SessionService.ListSessions": _foreign_user(),
    "SessionService.RevokeSession": Case(
        lambda world: {
            "tenant_id": world.second.tenant_id,
            "user_id": world.user_id,
            "session_id": world.session_id,
        },
        NOT_FOUND,
        "user_id",
    ),
    "SessionService.SetPassword": _foreign_user(new_password="a password of the second"),
    "QuotaService.SetQuota": _foreign_tenant(quota={}),
    "QuotaService.GetQuota": _foreign_tenant(),
    "QuotaService.ReserveTokens": Case(lambda world: {"tokens": 1}, DENIED),
    "QuotaService.ExtendReservation": Case(lambda world: {"reservation_id": world.reservation_id}, DENIED),
    "QuotaService.CommitReservation": Case(
        lambda world: {"reservation_id": world.reservation_id, "usage": {}, "usage_source": 1}, DENIED
    ),
    "QuotaService.ReleaseReservation": Case(lambda world: {"reservation_id": world.reservation_id}, DENIED),
    "QuotaService.CreateTopUp": _foreign_tenant(tokens=1),
    "QuotaService.ListTopUps": _foreign_tenant(),
    "QuotaService.RevokeTopUp": _foreign_tenant(top_up_id="any"),
    "QuotaService.GetUsage": _foreign_tenant(),
    "QuotaService.ListLedger": _foreign_tenant(),
    "PlanService.CreatePlan": Case(lambda world: {"plan": {"display_name": "x"}}, DENIED),
    "PlanService.GetPlan": Case(lambda world: {"plan_id": "x"}, DENIED),
    "PlanService.ListPlans": Case(lambda world: {}, DENIED),
    "PlanService.UpdatePlan": Case(
        lambda world: {"plan_id": "x", "plan": {}, "update_mask": {"paths": ["tokens_per_day"]}}, DENIED
    ),
    "PlanService.DeletePlan": Case(lambda world: {"plan_id": "x"}, DENIED),
    "PlanService.SetTenantPlan": _foreign_tenant(),
    "PlanService.GetTenantPlan": _foreign_tenant(),
    "PriceService.SetPrice": Case(lambda world: {"model": "x", **NO_COST}, DENIED),
    # The price book is the platform's, and open to all who are charged by it.
    "PriceService.GetPrice": Case(lambda world: {"model": "a model without a price"}, NOT_FOUND),
    "PriceService.ListPrices": Case(lambda world: {}, OK),
    "PriceService.DeletePrice": Case(lambda world: {"model": "x", "effective_time": {"seconds": 1}}, DENIED),
    "SignalService.WatchUsage": _foreign_tenant(),
    "SignalService.ListSignals": _foreign_tenant(),
    "SignalService.CreateWebhook": _foreign_tenant(url="https://example.org/hook"),
    "SignalService.GetWebhook": _foreign_webhook(),
    "SignalService.ListWebhooks": _foreign_tenant(),
    "SignalService.UpdateWebhook": _foreign_webhook(
        webhook={"display_name": "x"}, update_mask={"paths": ["display_name"]}
    ),
    "SignalService.DeleteWebhook": _foreign_webhook(),
    "SignalService.RotateWebhookSecret": _foreign_webhook(),
    "SignalService.TestWebhook": _foreign_webhook(),
    "SignalService.ListDeliveries": _foreign_webhook(),
    "UsageService.QueryUsage": _foreign_tenant(first_day="2026-11-01", last_day="2026-11-30"),
    "UsageService.GetStatement": _foreign_tenant(month="2026-11"),
    "UsageService.AuditLedger": _foreign_tenant(),
    "UsageService.Simulate": _foreign_tenant(quota={}),
    # A client's own id is its own in every tenant: the second one gets a conversation, not the first one's.
    "ConversationService.CreateConversation": Case(lambda world: {"conversation_id": SAME_ID}, OK),
    "ConversationService.GetConversation": _foreign_conversation(),
    "ConversationService.ListConversations": Case(lambda world: {"assistant_id": world.first.assistant_id}, OK),
    "ConversationService.UpdateConversation": _foreign_conversation(
        conversation={"title": "x"}, update_mask={"paths": ["title"]}
    ),
    "ConversationService.ArchiveConversation": _foreign_conversation(),
    "ConversationService.UnarchiveConversation": _foreign_conversation(),
    "ConversationService.FinalizeConversation": _foreign_conversation(reason="x"),
    "ConversationService.DeleteConversation": _foreign_conversation(),
    "ConversationService.UndeleteConversation": _foreign_conversation(),
    "ConversationService.GetStats": _foreign_conversation(),
    "ConversationService.LinkAnalysis": _foreign_message(analysis_id="a1"),
    "ConversationService.WatchConversation": _foreign_conversation(),
    "ConversationService.AppendMessages": _foreign_conversation(messages=[{"type": 1, "text": "x"}]),
    "ConversationService.ListMessages": _foreign_conversation(),
    "ConversationService.GetMessage": _foreign_message(),
    "ConversationService.UpdateMessage": _foreign_message(message={"text": "x"}, update_mask={"paths": ["text"]}),
    "ConversationService.ListMessageRevisions": _foreign_message(),
    "ConversationService.ReadMessageText": _foreign_message(),
    "ConversationService.SearchMessages": Case(
        lambda world: {"query": CANARY, "conversation_id": world.conversation_id}, OK
    ),
    "ConversationService.SetFeedback": _foreign_message(feedback={"rating": 1}),
    "ConversationService.ClearFeedback": _foreign_message(),
    "TaskService.CreateTask": _foreign_conversation(description="x"),
    "TaskService.GetTask": _foreign_conversation(task_id=SAME_ID),
    "TaskService.ListTasks": _foreign_conversation(),
    "TaskService.UpdateTask": _foreign_conversation(
        task_id=SAME_ID, task={"description": "x"}, update_mask={"paths": ["description"]}
    ),
    "TaskService.DeleteTask": _foreign_conversation(task_id=SAME_ID),
    "EventService.CreateEvent": _foreign_conversation(type="x"),
    "EventService.GetEvent": _foreign_conversation(event_id=SAME_ID),
    "EventService.ListEvents": _foreign_conversation(),
    "EventService.DeleteEvent": _foreign_conversation(event_id=SAME_ID),
    "AdminService.GetPolicy": Case(lambda world: {}, OK),
    "AdminService.UpdatePolicy": Case(
        lambda world: {"policy": {"retention_days": 1}, "update_mask": {"paths": ["retention_days"]}}, OK
    ),
    "AdminService.ExportUser": Case(lambda world: {"user_id": world.user_id}, OK),
    "AdminService.EraseUser": Case(lambda world: {"user_id": world.user_id}, OK),
    "AdminService.ListAuditEntries": Case(lambda world: {"conversation_id": world.conversation_id}, OK),
    "AdminService.VerifyAudit": Case(lambda world: {}, OK),
    "AdminService.GetStoreStatus": Case(lambda world: {}, OK),
    "FeedService.WatchEvents": Case(lambda world: {}, DENIED),
    "DocumentService.UploadDocument": Case(lambda world: {"filename": "x.txt", "chunk": SECRET_TEXT.encode()}, OK),
    "DocumentService.GetDocument": Case(lambda world: {"document_id": world.document_id}, NOT_FOUND, "document_id"),
    "DocumentService.ListDocuments": Case(lambda world: {}, OK),
    "DocumentService.DeleteDocument": Case(lambda world: {"document_id": world.document_id}, NOT_FOUND, "document_id"),
    "DocumentService.UpdateDocument": _foreign_document(document={"title": "x"}, update_mask={"paths": ["title"]}),
    "DocumentService.ListDocumentVersions": _foreign_document(),
    "DocumentService.CheckDuplicate": Case(lambda world: {"title": f"{CANARY} título"}, OK),
    "DocumentService.WatchIngestion": _foreign_document(),
    "DocumentService.RetryIngestion": _foreign_document(),
    "DocumentService.DiagnoseDocument": _foreign_document(),
    "DocumentService.DownloadOriginal": _foreign_document(),
    "CollectionService.CreateCollection": Case(lambda world: {"collection": {"display_name": "acervo"}}, OK),
    "CollectionService.GetCollection": Case(
        lambda world: {"collection_id": world.collection_id}, NOT_FOUND, "collection_id"
    ),
    "CollectionService.ListCollections": Case(lambda world: {}, OK),
    "CollectionService.UpdateCollection": Case(
        lambda world: {
            "collection_id": world.collection_id,
            "collection": {"display_name": "x"},
            "update_mask": {"paths": ["display_name"]},
        },
        NOT_FOUND,
        "collection_id",
    ),
    "CollectionService.DeleteCollection": Case(
        lambda world: {"collection_id": world.collection_id, "delete_documents": True}, NOT_FOUND, "collection_id"
    ),
    "ChunkService.UpsertChunks": _foreign_chunks(chunks=[{"chunk_id": "roubo", "text": "roubo"}]),
    "ChunkService.GetChunks": _foreign_chunks(chunk_ids=["segredo"]),
    "ChunkService.ListChunks": _foreign_chunks(),
    "ChunkService.CountChunks": _foreign_chunks(),
    "ChunkService.DeleteChunks": _foreign_chunks(chunk_ids=["segredo"]),
    "ChunkService.QueryChunks": _foreign_chunks(text=SECRET_TEXT),
    "SearchService.Search": Case(lambda world: {"query": SECRET_TEXT, "document_ids": [world.document_id]}, OK),
    "AssistantService.CreateAssistant": Case(lambda world: {"assistant": {"display_name": "x"}}, OK),
    "AssistantService.GetAssistant": Case(
        lambda world: {"assistant_id": world.first.assistant_id}, NOT_FOUND, "assistant_id"
    ),
    "AssistantService.ListAssistants": Case(lambda world: {}, OK),
    "AssistantService.UpdateAssistant": Case(
        lambda world: {
            "assistant_id": world.first.assistant_id,
            "assistant": {"display_name": "x"},
            "update_mask": {"paths": ["display_name"]},
        },
        NOT_FOUND,
        "assistant_id",
    ),
    "AssistantService.DeleteAssistant": Case(
        lambda world: {"assistant_id": world.first.assistant_id}, NOT_FOUND, "assistant_id"
    ),
    "AssistantService.Ask": Case(
        lambda world: {"assistant_id": world.first.assistant_id, "question": SECRET_TEXT}, NOT_FOUND, "assistant_id"
    ),
    "AssistantService.ChatWithAgent": Case(
        lambda world: {"agent_id": world.first.assistant_id, "message": SECRET_TEXT}, NOT_FOUND, "agent_id"
    ),
    "TeamService.CreateTeam": Case(
        lambda world: {
            "team": {
                "display_name": "x",
                "leader_id": world.second.assistant_id,
                "member_ids": [world.first.assistant_id],
            }
        },
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "TeamService.GetTeam": _foreign_team(),
    "TeamService.ListTeams": Case(lambda world: {}, OK),
    "TeamService.UpdateTeam": _foreign_team(team={"display_name": "x"}, update_mask={"paths": ["display_name"]}),
    "TeamService.DeleteTeam": _foreign_team(),
    "TeamService.ExecuteTeam": _foreign_team(question=SECRET_TEXT),
    "TeamService.ExecuteTeamTask": _foreign_team(task=SECRET_TEXT),
    "ReportService.GetUsageReport": Case(lambda world: {}, OK),
    "ReportService.GetPerformanceReport": Case(lambda world: {}, OK),
    "ReportService.GetTopicsReport": Case(lambda world: {}, OK),
    "ReportService.GetSentimentReport": Case(lambda world: {}, OK),
    "ReportService.GetUserActivityReport": Case(lambda world: {}, OK),
    "ReportService.GetSessionsReport": Case(lambda world: {}, OK),
    "ReportService.GetErrorsReport": Case(lambda world: {}, OK),
    "ReportService.GetRepricingReport": Case(lambda world: {}, OK),
    "ReportService.ListFacts": Case(lambda world: {"conversation_id": world.conversation_id}, OK),
    "ReportService.ExportReport": Case(lambda world: {"report": 1}, OK),
    "ReportService.WatchReport": Case(lambda world: {}, OK),
    "MetricsService.RecordExecution": Case(lambda world: {"executions": [{"event_id": "e-1"}]}, OK),
    "MetricsService.RecordContent": Case(
        lambda world: {"contents": [{"event_id": "e-2", "conversation_id": world.conversation_id}]}, OK
    ),
    "MetricsService.RecordSession": Case(
        lambda world: {
            "sessions": [{"event_id": "e-3", "session_id": world.conversation_id, "start_time": {"seconds": 1}}]
        },
        OK,
    ),
    "MetricsService.RequestClassification": Case(
        lambda world: {"classifications": [{"event_id": "e-4", "conversation_id": world.conversation_id}]}, OK
    ),
    "AdminService.ListDeadLetters": Case(lambda world: {}, OK),
    "AdminService.ReplayDeadLetters": Case(lambda world: {"all": True}, OK),
    "AdminService.RebuildProjection": Case(lambda world: {}, DENIED),
    "AdminService.ForgetUser": Case(lambda world: {"user_id": world.user_id}, OK),
    "AdminService.GetRetention": Case(lambda world: {}, OK),
    "AdminService.SetRetention": Case(lambda world: {"retention": {}}, OK),
    "AgreementService.CheckAgreement": Case(lambda world: {}, OK),
    "AgreementService.ListDrift": Case(lambda world: {}, OK),
    "AgreementService.RepairDrift": Case(lambda world: {"drift_id": "drift-1"}, NOT_FOUND),
    "AnalysisService.AnalyzeConversation": _foreign_conversation(),
    "AnalysisService.GetAnalysis": Case(lambda world: {"analysis_id": world.analysis_id}, NOT_FOUND, "analysis_id"),
    "AnalysisService.ListAnalyses": Case(lambda world: {"conversation_id": world.conversation_id}, OK),
    "AnalysisService.CorrectAnalysis": Case(
        lambda world: {
            "analysis_id": world.analysis_id,
            "analysis": {"main_topic": "x"},
            "update_mask": {"paths": ["main_topic"]},
        },
        NOT_FOUND,
        "analysis_id",
    ),
    "AnalysisService.GetTopicMap": Case(lambda world: {}, OK),
    "AnalysisService.GetAnalysisSettings": Case(lambda world: {}, OK),
    "AnalysisService.UpdateAnalysisSettings": Case(
        lambda world: {"settings": {"k_anonymity": 3}, "update_mask": {"paths": ["k_anonymity"]}}, OK
    ),
}
