"""A workflow for tests: a complaint that is taken up in time, worked on, and closed by another person than the one who did it."""

from __future__ import annotations

from tulou.kernel.workflows import Workflow

COMPLAINT = Workflow.model_validate({
    "label": {"zh": "投诉", "en": "Complaint"},
    "create": ["operator", "viewer"],
    "initial": "reported",
    "asks": ["level"],
    "needs": ["place"],
    "fields": {
        "place": {"kind": "string", "label": {"zh": "地点", "en": "Place"}},
        "level": {"label": {"zh": "噪声级", "en": "Level"}, "min": 0, "max": 160},
        "found": {"kind": "string", "label": {"zh": "核查结果", "en": "Found"}},
    },
    "states": {
        "reported": {"label": {"zh": "待受理", "en": "Reported"}, "deadlines": [{"after_s": 3600, "every_s": 3600}, {"after_s": 86400, "then": "lapse"}]},
        "working": {"label": {"zh": "处理中", "en": "Working"}, "deadlines": [{"after_s": 7200}]},
        "answered": {"label": {"zh": "待审核", "en": "Answered"}},
        "closed": {"label": {"zh": "办结", "en": "Closed"}, "final": True},
    },
    "transitions": {
        "accept": {"label": {"zh": "受理", "en": "Accept"}, "source": ["reported"], "target": "working", "roles": ["operator"], "asks": ["level"]},
        "note": {"label": {"zh": "记录", "en": "Note"}, "source": ["working"], "target": "working", "roles": ["operator"], "comment": True},
        "answer": {"label": {"zh": "答复", "en": "Answer"}, "source": ["working"], "target": "answered", "roles": ["operator"], "needs": ["found"]},
        "back": {"label": {"zh": "退回", "en": "Send back"}, "source": ["answered"], "target": "working", "roles": ["approver", "operator"],
                 "comment": True},
        "close": {"label": {"zh": "办结", "en": "Close"}, "source": ["answered"], "target": "closed", "roles": ["approver", "operator"],
                  "not_by": ["answer"]},
        "lapse": {"label": {"zh": "逾期关闭", "en": "Lapse"}, "source": ["reported"], "target": "closed"},
    },
})
