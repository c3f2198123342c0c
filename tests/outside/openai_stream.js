// node openai_stream.js BASE_URL KEY WORDS: read so many words of a stream, and leave.
"use strict";
const OpenAI = require("openai");

async function main([baseURL, key, most]) {
  const client = new OpenAI({ apiKey: "secret", baseURL, maxRetries: 0 });
  const { data: stream, response } = await client.chat.completions
    .create(
      { model: "scripted", messages: [{ role: "user", content: "Count, please" }], stream: true },
      { headers: { "Idempotency-Key": key } },
    )
    .withResponse();
  const words = [];
  for await (const chunk of stream) {
    const word = chunk.choices[0].delta.content;
    if (word) words.push(word);
    if (words.length >= Number(most) && Number(most) < 3) break;
  }
  console.log(JSON.stringify({ words, replayed: response.headers.get("Idempotency-Replayed") }));
}

main(process.argv.slice(2));
