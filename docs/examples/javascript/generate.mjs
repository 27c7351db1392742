// One generation, its answer on the screen:
//   KEYWAY_URL=amqp://billing-bot:SERVICE_TOKEN@rabbitmq:5672/keyway node generate.mjs "hello"
import { Keyway } from './keyway.mjs';

const [prompt = 'hello'] = process.argv.slice(2);
try {
  const keyway = await Keyway.connect();
  try {
    const result = await keyway.ask('/chat/completions', {
      model: 'gpt-4o-mini',
      messages: [{ role: 'user', content: prompt }],
    });
    console.log(result.response.choices[0].message.content);
    console.error(`${result.key_alias}, ${result.usage.total_tokens} tokens`);
  } finally {
    await keyway.close();
  }
} catch (error) {
  console.error(`${error.code ?? error.name}: ${error.message}`);
  process.exitCode = error.retryable ? 75 : 1;
}
