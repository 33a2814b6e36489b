"""Documents spread over several processes: the head keeps the local context, holders keep the chunks."""
