"""The server through the openai package: files, chat completions, streams, and what goes wrong."""

from __future__ import annotations

import base64
import errno
import importlib.util
import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_conftest import MAX_BYTES, Serve, until

from focusdoc import Chat, FocusEngine
from focusdoc.server import files, library, responses, streams
from focusdoc.server.files import FileStore

STORY = "The keeper of the lighthouse counts ships. " * 30
QUESTION = "What does the keeper count?"


def text_pdf(texts: list[str]) -> bytes:
    """A PDF with a line of text on every page."""
    path = Path(__file__).parents[1] / "documents" / "document_samples.py"
    spec = importlib.util.spec_from_file_location("document_samples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data: bytes = module.text_pdf(texts)
    return data


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def uploaded(api: openai.OpenAI, text: str = STORY, name: str = "story.txt") -> str:
    """The id of a file that was read."""
    file = api.files.create(file=(name, text.encode()), purpose="user_data")
    assert api.files.wait_for_processing(file.id, poll_interval=0.05).status == "processed"
    return file.id


def asked(api: openai.OpenAI, *files: str, **more: Any) -> Any:
    parts: list[Any] = [{"type": "file", "file": {"file_id": file}} for file in files]
    message: Any = {"role": "user", "content": [*parts, {"type": "text", "text": QUESTION}]}
    return api.chat.completions.create(model="tiny", messages=[message], max_tokens=8, **more)


def asked_without_files(api: openai.OpenAI, max_tokens: int = 2, **more: Any) -> Any:
    message: Any = {"role": "user", "content": "Hello"}
    return api.chat.completions.create(model="tiny", messages=[message], max_tokens=max_tokens, **more)


class TestFiles:
    def test_are_uploaded_read_listed_fetched_and_deleted(self, serve: Serve) -> None:
        api = client(serve())
        file = api.files.create(file=("story.txt", STORY.encode()), purpose="user_data")
        assert (file.filename, file.bytes, file.purpose) == ("story.txt", len(STORY), "user_data")
        read = api.files.wait_for_processing(file.id, poll_interval=0.05)
        assert read.status == "processed"
        assert read.tokens == read.tokens_read == len(STORY)  # type: ignore[attr-defined]
        assert [each.id for each in api.files.list()] == [file.id]
        assert api.files.content(file.id).read() == STORY.encode()
        assert api.files.delete(file.id).deleted
        assert list(api.files.list()) == []
        with pytest.raises(openai.NotFoundError, match="There is no file"):
            api.files.retrieve(file.id)

    def test_of_one_content_are_read_once_and_forgotten_with_the_last(self, serve: Serve) -> None:
        api = client(serve())
        one, same = uploaded(api), uploaded(api, name="same.txt")
        assert api.files.retrieve(same).tokens == len(STORY)  # type: ignore[attr-defined]
        api.files.delete(one)
        assert asked(api, same).usage.prompt_tokens_details.cached_tokens == len(STORY)
        api.files.delete(same)
        assert asked(api, uploaded(api)).choices[0].message.annotations[0].url_citation.title == "story.txt, page 1"

    def test_that_cannot_be_read_say_why(self, serve: Serve) -> None:
        api = client(serve())
        file = api.files.create(file=("empty.txt", b"   "), purpose="user_data")
        read = api.files.wait_for_processing(file.id, poll_interval=0.05)
        assert (read.status, "text" in (read.status_details or "")) == ("error", True)
        with pytest.raises(openai.BadRequestError, match="cannot be asked"):
            asked(api, file.id)

    def test_that_the_disk_does_not_give_say_so_without_a_path(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FileStore, "content", lambda self, file: Path("/a/secret/place"))
        api = client(serve())
        file = api.files.create(file=("story.txt", STORY.encode()), purpose="user_data")
        read = api.files.wait_for_processing(file.id, poll_interval=0.05)
        assert (read.status, read.status_details) == ("error", "It could not be read (No such file or directory).")

    def test_that_cannot_be_deleted_stay(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        api = client(serve())
        file = uploaded(api)

        def locked(path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(files.shutil, "rmtree", locked)
            with pytest.raises(openai.InternalServerError, match="its log says why"):
                api.files.delete(file)
        assert asked(api, file).choices[0].message.annotations
        assert api.files.delete(file).deleted

    def test_are_still_there_after_a_restart(self, serve: Serve, tmp_path: Path) -> None:
        file = uploaded(client(serve(folder=tmp_path / "kept")))
        (tmp_path / "kept" / ".half-focusdoc-tmp-1").mkdir()  # what a killed process leaves
        again = client(serve(folder=tmp_path / "kept"))
        assert again.files.wait_for_processing(file, poll_interval=0.05).status == "processed"
        assert [path.name for path in (tmp_path / "kept").iterdir()] == [file]

    def test_that_are_too_large_leave_nothing(self, serve: Serve, tmp_path: Path) -> None:
        api = client(serve(folder=tmp_path / "kept"))
        with pytest.raises(openai.APIStatusError, match="more than the") as refused:
            api.files.create(file=("big.txt", b"a" * (MAX_BYTES + 1)), purpose="user_data")
        assert refused.value.status_code == 413
        with pytest.raises(openai.APIStatusError, match="more than the"):
            api.files.create(file=("big.txt", b"a" * (3 * MAX_BYTES)), purpose="user_data")
        assert list((tmp_path / "kept").iterdir()) == []

    def test_expire(self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "_SWEEP_SECONDS", 0.05)
        api = client(serve(folder=tmp_path / "kept"))
        file = api.files.create(
            file=("story.txt", STORY.encode()),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert file.expires_at == file.created_at + 3600
        stays = uploaded(api, "Another one. " * 9)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        assert [each.id for each in api.files.list()] == [stays]
        until(lambda: [path.name for path in (tmp_path / "kept").iterdir()] == [stays])

    def test_of_another_key_are_not_there(self, serve: Serve) -> None:
        url = serve(keys=("one-key-of-sixteen", "other-key-sixteen"))
        one, other = client(url, "one-key-of-sixteen"), client(url, "other-key-sixteen")
        file = uploaded(one)
        assert list(other.files.list()) == []
        for call in (lambda: other.files.retrieve(file), lambda: other.files.delete(file), lambda: asked(other, file)):
            with pytest.raises(openai.NotFoundError):
                call()
        for wrong in ("", "one-key-of-sixtee", "one-key-of-sixteen2"):
            with pytest.raises(openai.AuthenticationError, match="API key"):
                client(url, wrong or "x").models.list()

    def test_tell_how_far_they_are_as_events(self, serve: Serve) -> None:
        url = serve()
        file = uploaded(client(url))
        events = httpx.get(f"{url}/files/{file}/events").text
        assert events.startswith("data: {")
        assert '"status": "processed"' in events


class TestChatCompletions:
    def test_answer_like_the_engine_with_pages(self, serve: Serve, tiny_engine: FocusEngine) -> None:
        from focusdoc import Document

        api = client(serve())
        file = uploaded(api)
        completion = asked(api, file)
        chat = Chat(tiny_engine, 10_000_000)
        wanted = chat.ask([Document.from_text(STORY)], QUESTION, max_new_tokens=8)
        choice = completion.choices[0]
        assert choice.message.content == wanted.text
        assert choice.finish_reason == "length"
        citation = choice.message.annotations[0].url_citation
        assert (citation.title, citation.page, citation.file_id) == ("story.txt, page 1", 1, file)
        assert citation.quote == wanted.sources[0].text
        assert httpx.get(citation.url).text == STORY
        assert completion.usage.prompt_tokens_details.cached_tokens == len(STORY)

    def test_stream_the_same(self, serve: Serve) -> None:
        api = client(serve())
        file = uploaded(api)
        whole = asked(api, file)
        *chunks, last, usage = asked(api, file, stream=True, stream_options={"include_usage": True})
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert last.choices[0].finish_reason == "length"
        assert last.choices[0].delta.annotations[0]["url_citation"]["file_id"] == file
        assert usage.usage.completion_tokens == whole.usage.completion_tokens

    def test_a_stream_without_tokens_sends_comments(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "KEEP_ALIVE", 0.001)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20, "stream": True}
        text = httpx.post(f"{serve()}/chat/completions", json=body).text
        assert ": still at work\n\n" in text
        assert text.endswith("data: [DONE]\n\n")

    def test_take_files_inside_messages_and_pasted_texts(self, serve: Serve) -> None:
        api = client(serve())
        data = "data:text/plain;base64," + base64.b64encode(STORY.encode()).decode()
        part: Any = {"type": "file", "file": {"file_data": data, "filename": "story.txt"}}
        text: Any = {"type": "text", "text": QUESTION}
        inline = api.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": [part, text]}], max_tokens=4
        )
        pasted = api.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": f"{STORY}\n\n{QUESTION}"}], max_tokens=4
        )
        assert inline.choices[0].message.content
        assert pasted.usage is not None
        assert pasted.usage.prompt_tokens > len(STORY) - 900

    def test_each_of_many_is_of_its_own_document(self, serve: Serve) -> None:
        api = client(serve(max_concurrent=3))
        texts = [f"The keeper number {number} counts ships. " * 25 for number in range(3)]
        files = [uploaded(api, text, f"{number}.txt") for number, text in enumerate(texts)]
        alone = [asked(api, file).choices[0].message for file in files]
        found: dict[int, Any] = {}

        def ask(place: int) -> None:
            found[place] = asked(api, files[place % 3]).choices[0].message

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(found[place] == alone[place % 3] for place in range(9))

    def test_a_client_that_goes_away_ends_its_answer(self, serve: Serve, tiny_engine: FocusEngine) -> None:
        url = serve(max_concurrent=1)
        api = client(url)
        file = uploaded(api)
        stream = api.chat.completions.create(
            model="tiny",
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "file", "file": {"file_id": file}}, {"type": "text", "text": QUESTION}],
                }
            ],
            max_tokens=2000,
            stream=True,
        )
        next(iter(stream))
        stream.close()
        until(lambda: "focusdoc_waiting 0.0" in httpx.get(f"{url[:-3]}/metrics").text)
        assert asked(api, file).choices  # the only slot is free again

    def test_reading_waits_while_an_answer_is_written(self, serve: Serve) -> None:
        api = client(serve())
        file = uploaded(api)
        answering = asked(api, file, stream=True, extra_body={"max_completion_tokens": 2000})
        next(iter(answering))
        other = api.files.create(file=("other.txt", STORY.replace("ships", "stars").encode() * 3), purpose="user_data")
        until(lambda: api.files.retrieve(other.id).tokens_read > 0)  # type: ignore[attr-defined]
        time.sleep(0.3)
        begun = api.files.retrieve(other.id)
        assert begun.status == "uploaded"
        answering.close()
        until(lambda: api.files.retrieve(other.id).status == "processed")

    def test_more_than_may_wait_are_refused(self, serve: Serve) -> None:
        api = client(serve(max_concurrent=1, max_waiting=0))
        file = uploaded(api)
        first = asked(api, file, stream=True, extra_body={"max_completion_tokens": 1000})
        next(iter(first))
        with pytest.raises(openai.RateLimitError, match="try again") as refused:
            asked(api, file)
        assert refused.value.response.headers["Retry-After"] == "5"
        first.close()


class TestFullDisk:
    def test_an_upload_that_has_no_room_is_refused_before_it_comes(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FileStore, "free_bytes", lambda self: 1000)
        url = serve()
        with pytest.raises(openai.InternalServerError, match="disk is full") as refused:
            uploaded(client(url))
        assert refused.value.status_code == 507
        assert asked_without_files(client(url)).choices  # everything else goes on

    def test_a_disk_that_fills_up_while_an_upload_comes_keeps_nothing_of_it(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        url = serve(folder=tmp_path / "files")
        with monkeypatch.context() as patch:
            patch.setattr("focusdoc.server.files.asdict", full)
            with pytest.raises(openai.InternalServerError, match="disk is full"):
                uploaded(client(url))
        assert list((tmp_path / "files").iterdir()) == []
        assert uploaded(client(url))


class TestResponses:
    def ask(self, api: openai.OpenAI, file: str, question: str = QUESTION, **more: Any) -> Any:
        content: Any = [{"type": "input_file", "file_id": file}, {"type": "input_text", "text": question}]
        message: Any = {"role": "user", "content": content}
        return api.responses.create(model="tiny", input=[message], **{"max_output_tokens": 8, **more})

    def test_answer_with_citations(self, serve: Serve) -> None:
        api = client(serve())
        file = uploaded(api)
        response = self.ask(api, file)
        same = asked(api, file).choices[0].message
        assert response.output_text == same.content
        assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        citation = response.output[0].content[0].annotations[0]
        assert (citation.type, citation.file_id, citation.filename) == ("file_citation", file, "story.txt")
        assert (citation.page, citation.quote) == (1, same.annotations[0].url_citation.quote)
        assert response.usage.input_tokens_details.cached_tokens == len(STORY)

    def test_stream_the_events_of_the_client(self, serve: Serve) -> None:
        api = client(serve())
        file = uploaded(api)
        events = list(self.ask(api, file, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
        assert kinds == [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.annotation.added",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "incomplete",
        ]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events[-1].response.output_text == self.ask(api, file).output_text

    def test_go_on_from_a_stored_one(self, serve: Serve) -> None:
        url = serve(keys=("one-key-of-sixteen", "other-key-sixteen"))
        api = client(url, "one-key-of-sixteen")
        first = self.ask(api, uploaded(api), instructions="Be short.")
        assert api.responses.retrieve(first.id).output_text == first.output_text
        then = api.responses.create(
            model="tiny", input="And what else?", previous_response_id=first.id, max_output_tokens=4
        )
        assert then.output[0].content[0].annotations  # type: ignore[union-attr]  # still about the file
        with pytest.raises(openai.NotFoundError, match="no response"):
            client(url, "other-key-sixteen").responses.retrieve(first.id)
        api.responses.delete(first.id)
        unstored = api.responses.create(model="tiny", input="Hello", store=False, max_output_tokens=4)
        for gone in (first.id, unstored.id):
            with pytest.raises(openai.NotFoundError, match="no response"):
                api.responses.create(model="tiny", input="More?", previous_response_id=gone)

    def test_the_oldest_are_dropped_when_their_files_are_too_many_bytes(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(responses, "MAX_KEPT_BYTES", 2 * len(STORY))
        api = client(serve())
        data = "data:text/plain;base64," + base64.b64encode(STORY.encode()).decode()
        file = {"type": "input_file", "file_data": data, "filename": "story.txt"}
        parts: Any = [file, {"type": "input_text", "text": QUESTION}]
        made = [api.responses.create(model="tiny", input=[{"role": "user", "content": parts}]) for _ in range(3)]
        assert [response.id for response in made[1:]] == [api.responses.retrieve(each.id).id for each in made[1:]]
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(made[0].id)


class TestPage:
    def test_loads_nothing_from_elsewhere(self, serve: Serve) -> None:
        page = httpx.get(serve()[:-3])
        assert page.headers["Content-Type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert "innerHTML" not in page.text
        assert not re.search(r"""(?:src|href)=["']?https?:""", page.text)

    def test_pages_of_texts_are_text_and_those_of_pdfs_pictures(self, serve: Serve) -> None:
        url = serve()
        api = client(url)
        text = uploaded(api, "one\ftwo and more")
        assert httpx.get(f"{url}/files/{text}/pages/2").json() == {"number": 2, "label": None, "text": "two and more"}
        assert httpx.get(f"{url}/files/{text}/pages/3").status_code == 404
        pdf = api.files.create(file=("a.pdf", text_pdf(["Some words stand here."])), purpose="user_data").id
        assert api.files.wait_for_processing(pdf, poll_interval=0.05).status == "processed"
        plain, marked = (
            httpx.get(f"{url}/files/{pdf}/pages/1", params={"quote": quote}).content for quote in ("", "words stand")
        )
        assert plain.startswith(b"\x89PNG")
        assert plain != marked

    def test_other_websites_cannot_use_it(self, serve: Serve) -> None:
        url = serve()
        assert httpx.get(f"{url}/files", headers={"Origin": "https://evil.example"}).status_code == 403
        assert httpx.get(f"{url}/files", headers={"Host": "evil.example"}).status_code == 403
        for host, status in (("[::1]", 200), ("[::1]:80", 200), ("LOCALHOST:1", 200), ("[::1", 403), ("::2", 403)):
            assert httpx.get(f"{url}/files", headers={"Host": host}).status_code == status, host
        keyed = serve(keys=("one-key-of-sixteen",))
        headers = {"Host": "books.example", "Authorization": "Bearer one-key-of-sixteen"}
        assert httpx.get(f"{keyed}/files", headers=headers).status_code == 200

    def test_websites_that_are_named_can(self, serve: Serve) -> None:
        chat, evil = "https://chat.example", "https://evil.example"
        url = serve(keys=("one-key-of-sixteen",), origins=(chat,))

        def preflight(origin: str) -> httpx.Response:
            asked_for = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            return httpx.options(f"{url}/chat/completions", headers={"Origin": origin, **asked_for})

        assert preflight(chat).status_code == 200  # a browser sends no key with it
        assert preflight(chat).headers["Access-Control-Allow-Origin"] == chat
        assert "authorization" in preflight(chat).headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Origin" not in preflight(evil).headers
        with_key = {"Authorization": "Bearer one-key-of-sixteen"}
        allowed = httpx.get(f"{url}/models", headers={"Origin": chat, **with_key})
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, chat)
        without_key = httpx.get(f"{url}/models", headers={"Origin": chat})
        assert (without_key.status_code, without_key.headers["Access-Control-Allow-Origin"]) == (401, chat)
        assert httpx.get(f"{url}/models", headers={"Origin": evil, **with_key}).status_code == 403


class TestMistakes:
    @pytest.mark.parametrize(
        ("body", "what"),
        [
            (b"{", "not valid"),
            (b'{"messages": []}', "messages"),
            (b'{"messages": [{"role": "judge", "content": "a"}]}', "role"),
            (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "image_url"),
            (b'{"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}', "file_id"),
            (b'{"messages": [{"role": "user", "content": "a"}], "temperature": -1}', "temperature"),
            (b'{"messages": [{"role": "user", "content": ""}]}', "empty"),
            (b"[" * 100_000, "body"),
        ],
    )
    def test_are_one_sentence_each(self, serve: Serve, body: bytes, what: str) -> None:
        url = serve()
        answer = httpx.post(f"{url}/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert what in answer.json()["error"]["message"]

    def test_before_the_model_is_loaded_it_says_so(self, serve: Serve, tiny_engine: FocusEngine) -> None:
        loaded = threading.Event()

        def load() -> Chat:
            loaded.wait()
            return Chat(tiny_engine)

        url = serve(chat=load, wait=False)
        assert httpx.get(f"{url[:-3]}/health").status_code == 503
        with pytest.raises(openai.InternalServerError, match="being loaded"):
            client(url).chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])
        loaded.set()
        until(lambda: httpx.get(f"{url[:-3]}/health").status_code == 200)

    def test_when_the_model_cannot_be_loaded_it_says_so(self, serve: Serve) -> None:
        def load() -> Chat:
            raise RuntimeError("the reason is in the log, not in answers")

        url = serve(chat=load, wait=False)
        until(lambda: httpx.get(f"{url[:-3]}/health").json()["status"] == "error")
        health = httpx.get(f"{url[:-3]}/health")
        assert (health.status_code, health.json()["details"]) == (503, "The server failed; its log says why.")
        file = client(url).files.create(file=("story.txt", STORY.encode()), purpose="user_data")
        assert '"status": "error"' in httpx.get(f"{url}/files/{file.id}/events").text  # and it ends

    def test_when_reading_ends_for_good_files_and_their_questions_say_so(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library, "_SWEEP_SECONDS", 0.0)

        def broken(self: FileStore) -> list[Any]:
            raise RuntimeError("a bug")

        monkeypatch.setattr(FileStore, "expired", broken)
        url = serve()
        until(lambda: httpx.get(f"{url[:-3]}/health").json()["status"] == "error")
        api = client(url)
        file = api.files.create(file=("story.txt", STORY.encode()), purpose="user_data")
        with pytest.raises(openai.BadRequestError, match="cannot be asked: The server failed"):
            asked(api, file.id)

    def test_a_stream_that_fails_ends_with_an_error(
        self, serve: Serve, tiny_engine: FocusEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(Chat):
            def stream(self, *args: Any, **more: Any) -> Any:
                for number, piece in enumerate(super().stream(*args, **more)):
                    if number == 1:
                        raise RuntimeError("a bug")
                    yield piece

        url = serve(chat=lambda: Broken(tiny_engine, 10_000_000))
        with pytest.raises(openai.APIError, match="its log says why"):
            list(asked_without_files(client(url), max_tokens=50, stream=True))
        metrics = httpx.get(f"{url[:-3]}/metrics").text
        assert 'route="/v1/chat/completions",status="200"} 1.0' in metrics
        assert 'status="500"' not in metrics

    def test_it_is_busy_while_the_next_question_would_be_refused(self, serve: Serve) -> None:
        url = serve(max_concurrent=1, max_waiting=0)
        assert httpx.get(f"{url[:-3]}/health").status_code == 200
        stream = asked_without_files(client(url), max_tokens=2000, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError):
            asked_without_files(client(url))
        health = httpx.get(f"{url[:-3]}/health")
        assert (health.status_code, health.json()["status"]) == (503, "busy")
        stream.close()
        until(lambda: httpx.get(f"{url[:-3]}/health").status_code == 200)

    def test_requests_are_counted_with_those_refused(self, serve: Serve) -> None:
        url = serve(keys=("one-key-of-sixteen",))
        for path in ("models", "models", "files/file-0", "nowhere/" + "x" * 50):
            httpx.get(f"{url}/{path}")
        asked_without_files(client(url, "one-key-of-sixteen"))
        headers = {"Authorization": "Bearer one-key-of-sixteen"}
        metrics = httpx.get(f"{url[:-3]}/metrics", headers=headers).text
        for line in (
            'focusdoc_requests_total{method="GET",route="/v1/models",status="401"} 2.0',
            'focusdoc_requests_total{method="GET",route="/v1/files/{file_id}",status="401"} 1.0',
            'focusdoc_requests_total{method="",route="",status="404"} 1.0',
            'focusdoc_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0',
        ):
            assert line in metrics
        assert "xxx" not in metrics

    def test_models_and_metrics(self, serve: Serve) -> None:
        url = serve()
        api = client(url)
        assert [model.id for model in api.models.list()] == ["tiny"]
        asked(api, uploaded(api))
        metrics = httpx.get(f"{url[:-3]}/metrics").text
        assert "focusdoc_answers_total 1.0" in metrics
        assert f"focusdoc_document_tokens_reused_total {float(len(STORY))}" in metrics
