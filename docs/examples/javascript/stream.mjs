// A streamed generation, on the screen as it comes:
//   KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway node stream.mjs "hello"
import { Keyway } from './keyway.mjs';

const [prompt = 'hello'] = process.argv.slice(2);
try {
  const keyway = await Keyway.connect();
  try {
    const body = { model: 'gpt-4o-mini', messages: [{ role: 'user', content: prompt }], stream: true };
    const result = await keyway.ask('/chat/completions', body, {
      onChunk(data, restarted) {
        if (restarted) process.stdout.write('\n(again from the start)\n');
        process.stdout.write(data.choices[0]?.delta.content ?? '');
      },
    });
    process.stdout.write('\n');
    console.error(`${result.key_alias}, ${result.usage.total_tokens} tokens`);
  } finally {
    await keyway.close();
  }
} catch (error) {
  console.error(`${error.code ?? error.name}: ${error.message}`);
  process.exitCode = error.retryable ? 75 : 1;
}
