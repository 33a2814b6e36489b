"""The chunks of documents over many processes: one head keeps the local context, holders keep the chunks."""
