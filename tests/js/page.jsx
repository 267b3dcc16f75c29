// A page with a chat, for test_browser.py: page.html?api=URL&graph=NAME&hook=new|socket|classic[&thread=ID]
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { useStream as useNewStream } from "@langchain/react";
import { useStream as useClassicStream } from "sdk115/react";

const query = new URLSearchParams(location.search);
const classic = query.get("hook") === "classic";
const useStream = classic ? useClassicStream : useNewStream;

function keep(threadId) {
  query.set("thread", threadId);
  history.replaceState(null, "", `?${query}`);
}

function Chat() {
  const [seen, setSeen] = useState([]);
  const stream = useStream({
    apiUrl: query.get("api"),
    assistantId: query.get("graph"),
    threadId: query.get("thread") ?? undefined,
    onThreadId: keep,
    fetchStateHistory: true,
    reconnectOnMount: true,
    ...(query.get("hook") === "socket" ? { transport: "websocket" } : {}),
  });
  const texts = stream.messages.map((message) => [message.type, message.text ?? textOf(message.content)]);
  const last = texts.at(-1)?.[1] ?? "";
  useEffect(() => setSeen((before) => (before.at(-1) === last ? before : [...before, last])), [last]);
  window.page = {
    texts,
    seen,
    values: stream.values,
    interrupt: stream.interrupt?.value ?? null,
    loading: stream.isLoading,
    error: stream.error ? String(stream.error) : null,
    threadId: query.get("thread"),
    history: stream.history?.length,
    submit: (input) => void stream.submit(input),
    answer: (answer) =>
      void (classic
        ? stream.submit(undefined, { command: { resume: answer } })
        : stream.respond(answer, { interruptId: stream.interrupt.id })),
    stop: () => void stream.stop(),
  };
  return <pre>{JSON.stringify(window.page, null, 1)}</pre>;
}

const textOf = (content) => (typeof content === "string" ? content : content.map((block) => block.text ?? "").join(""));

createRoot(document.body).render(<Chat />);
