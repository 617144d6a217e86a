"""Rules, the desk of alarms, and notifications of alarms."""

import sqlalchemy as sa
from alembic import op

from tulou.kernel.sql import BigId, Json, UtcDateTime

revision = "access010"
down_revision = "access006"
branch_labels = None
depends_on = None

NEW = ("rule_version", "title", "group_id", "assigned_to", "silenced_until", "escalate_s", "escalate_at", "cleared_by")


def upgrade() -> None:
    op.create_table(
        "rules",
        sa.Column("id", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("type", sa.String(128), nullable=False),
        sa.Column("entities", Json),
        sa.Column("condition", Json, nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("escalate_s", sa.Integer),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rules"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rules_org_id", "rules", ["org", "id"])
    op.create_table(
        "rule_checkpoint",
        sa.Column("stream", sa.String(64), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("stream", name="pk_rule_checkpoint"),
    )
    for column in (
        sa.Column("rule_version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("title", sa.Text, nullable=False, server_default=""),
        sa.Column("group_id", sa.BigInteger),
        sa.Column("assigned_to", sa.String(128)),
        sa.Column("silenced_until", UtcDateTime),
        sa.Column("escalate_s", sa.Integer),
        sa.Column("escalate_at", UtcDateTime),
        sa.Column("cleared_by", sa.String(128)),
    ):
        op.add_column("alarms", column)
    op.create_index("ix_alarms_entity_no_property_rule_id", "alarms", ["entity_no", "property", "rule", "id"])
    op.create_index("ix_alarms_org_rule_raised_at", "alarms", ["org", "rule", "raised_at"])
    op.create_index("ix_alarms_group_id", "alarms", ["group_id"])
    op.create_index(
        "ix_alarms_escalate_at", "alarms", ["escalate_at"],
        sqlite_where=sa.text("escalate_at IS NOT NULL"), postgresql_where=sa.text("escalate_at IS NOT NULL"),
    )
    op.create_table(
        "alarm_notes",
        sa.Column("id", BigId, nullable=False),
        sa.Column("alarm_id", sa.BigInteger, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alarm_notes"),
    )
    op.create_index("ix_alarm_notes_alarm_id_id", "alarm_notes", ["alarm_id", "id"])
    op.create_table(
        "alarm_channels",
        sa.Column("id", BigId, nullable=False),
        sa.Column("org", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("address", Json, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("least", sa.String(16), nullable=False),
        sa.Column("types", Json),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("last_success", UtcDateTime),
        sa.Column("last_failure", UtcDateTime),
        sa.Column("last_error", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_alarm_channels"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alarm_channels_org_id", "alarm_channels", ["org", "id"])
    op.create_table(
        "alarm_outbox",
        sa.Column("id", BigId, nullable=False),
        sa.Column("channel_id", sa.BigInteger, nullable=False),
        sa.Column("alarm_id", sa.BigInteger, nullable=False),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("due_at", UtcDateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_alarm_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_alarm_outbox_due_at", "alarm_outbox", ["due_at"])
    op.create_index("ix_alarm_outbox_channel_id_id", "alarm_outbox", ["channel_id", "id"])


def downgrade() -> None:
    for table in ("alarm_outbox", "alarm_channels", "alarm_notes", "rule_checkpoint", "rules"):
        op.drop_table(table)
    for index in ("escalate_at", "group_id", "org_rule_raised_at", "entity_no_property_rule_id"):
        op.drop_index(f"ix_alarms_{index}", "alarms")
    with op.batch_alter_table("alarms") as altered:
        for name in NEW:
            altered.drop_column(name)
