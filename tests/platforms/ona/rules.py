"""The limits that Ona's own descriptors state for a request, where our client can break them.

They are annotations of buf.validate; of its language only what the requests here use is read.
"""

import re

from buf.validate import validate_pb2
from connectrpc.code import Code
from connectrpc.errors import ConnectError

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def check(message, path=""):
    """Refuses a message that breaks a limit, as `invalid_argument`."""
    for field in message.DESCRIPTOR.fields:
        name, value = path + field.json_name, getattr(message, field.name)
        repeated = field.label == field.LABEL_REPEATED
        if field.has_presence and not message.HasField(field.name):
            continue
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if rules.required and not value:
            refuse(f"{name} is required")
        if (
            repeated
            and rules.repeated.HasField("max_items")
            and len(value) > rules.repeated.max_items
        ):
            refuse(f"{name} has {len(value)} items, of at most {rules.repeated.max_items}")
        for item in value if repeated else [value]:
            scalar(name, item, rules.repeated.items if repeated else rules)
            if field.message_type and not field.message_type.full_name.startswith("google."):
                check(item, f"{name}.")


def scalar(name, value, rules):
    """Refuses a single value that breaks a limit."""
    if rules.string.uuid and not UUID.fullmatch(value):
        refuse(f"{name} is not a UUID")
    if rules.string.HasField("max_len") and len(value) > rules.string.max_len:
        refuse(f"{name} is longer than {rules.string.max_len}")
    if value in rules.enum.not_in:
        refuse(f"{name} must be stated")
    if rules.int32.HasField("gte") and not rules.int32.gte <= value <= rules.int32.lte:
        refuse(f"{name} is {value}, not from {rules.int32.gte} to {rules.int32.lte}")


def refuse(why):
    """An error of the caller's making."""
    raise ConnectError(Code.INVALID_ARGUMENT, why)
