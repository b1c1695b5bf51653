// Server-sent events out of a response's body.

/** The data of each event, parsed; comments (heartbeats) are passed over. */
export async function* events(body) {
  let pending = "";
  for await (const text of texts(body)) {
    const blocks = (pending + text).split("\n\n");
    pending = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) yield JSON.parse(data.map((line) => line.slice(5).trimStart()).join("\n"));
    }
  }
}

async function* texts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    reader.cancel().catch(() => {}); // rejects where the stream has failed, as `read` has then
  }
}
