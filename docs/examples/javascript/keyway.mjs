// Keyway from JavaScript, over plain AMQP (docs/wire.md): a request to the exchange `requests`, its answer
// through RabbitMQ's direct reply-to. Copy it; it needs amqplib alone.
import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';

const REPLIES = 'amq.rabbitmq.reply-to';
/** Milliseconds that an answer may come after the request's deadline. */
const GRACE_MS = 5_000;

/** A failed request. `code` is one of wire.md, or one that a later version brought. */
export class KeywayError extends Error {
  constructor({ code, message, retryable = false, retry_at: retryAt = null }) {
    super(message);
    this.name = 'KeywayError';
    this.code = code;
    this.retryable = retryable;
    this.retryAt = retryAt && new Date(retryAt);
  }
}

/** A connection for one automation; any number of requests may be under way on it. */
export class Keyway {
  #automation;
  #connection;
  #channel;
  #waiting = new Map();

  /** @param {string} [url] amqp://AUTOMATION:SERVICE_TOKEN@HOST:PORT/VHOST */
  static async connect(url = process.env.KEYWAY_URL) {
    if (!url) throw new KeywayError({ code: 'no_address', message: 'set KEYWAY_URL, or give an address' });
    const keyway = new Keyway();
    keyway.#automation = decodeURIComponent(new URL(url).username);
    keyway.#connection = await signIn(url, keyway.#automation);
    keyway.#connection.on('error', (error) => keyway.#failAll(error.message));
    keyway.#connection.on('close', () => keyway.#failAll('the connection is closed'));
    keyway.#channel = await keyway.#connection.createConfirmChannel();
    keyway.#channel.on('error', (error) => keyway.#failAll(error.message));
    keyway.#channel.on('return', ({ properties }) =>
      keyway.#fail(properties.correlationId, `there is no automation ${keyway.#automation}`),
    );
    await keyway.#channel.consume(REPLIES, (message) => message && keyway.#onReply(message), { noAck: true });
    return keyway;
  }

  /**
   * Ask for one generation.
   *
   * @param {string} path the provider's endpoint, such as `/chat/completions`
   * @param {object} body the provider's request body; with `stream: true`, chunks come to `onChunk`
   * @param {object} [options]
   * @param {string} [options.userId] whom the usage is booked on
   * @param {number} [options.timeoutMs] how long the whole may take
   * @param {string} [options.requestId] the idempotency key: asked again under it, nothing is done twice
   * @param {(data: object, restarted: boolean) => void} [options.onChunk] takes each chunk of the provider;
   *   `restarted`: the answer begins anew, so forget what came before
   * @returns {Promise<object>} a `generation.result.v1`, with the provider's JSON in `response`
   * @throws {KeywayError} it failed, or no answer came; ask again with the same `requestId`
   */
  async ask(path, body, { userId, timeoutMs = 60_000, requestId = randomUUID(), onChunk } = {}) {
    const deadline = new Date(Date.now() + timeoutMs).toISOString();
    const request = { path, body, user_id: userId, deadline };
    let timer;
    try {
      return await new Promise((resolve, reject) => {
        this.#waiting.set(requestId, { resolve, reject, onChunk });
        const late = () => this.#fail(requestId, `no answer within ${timeoutMs} ms`);
        timer = setTimeout(late, timeoutMs + GRACE_MS);
        this.#channel.publish(
          'requests',
          this.#automation,
          Buffer.from(JSON.stringify(request)),
          {
            type: 'generation.request.v1',
            contentType: 'application/json',
            messageId: requestId,
            correlationId: requestId,
            replyTo: REPLIES,
            persistent: true,
            mandatory: true,
          },
          (error) => error && this.#fail(requestId, `RabbitMQ did not take the request: ${error.message}`),
        );
      });
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(requestId);
    }
  }

  async close() {
    await this.#connection.close();
  }

  #onReply({ properties, content }) {
    const asked = this.#waiting.get(properties.correlationId);
    if (!asked) return;
    const answer = JSON.parse(content.toString());
    if (properties.type === 'generation.chunk.v1') asked.onChunk?.(answer.data, answer.restarted === true);
    else if (answer.status === 'succeeded') asked.resolve(answer);
    else asked.reject(new KeywayError(answer.error));
  }

  #fail(requestId, message) {
    this.#waiting.get(requestId)?.reject(new KeywayError({ code: 'no_answer', message, retryable: true }));
  }

  #failAll(message) {
    for (const requestId of this.#waiting.keys()) this.#fail(requestId, message);
  }
}

/** As the automation, or, while its token rotates and this is the new one, as `<automation>.next`. */
async function signIn(url, automation) {
  try {
    return await amqp.connect(url);
  } catch (error) {
    if (!error.message.includes('ACCESS_REFUSED')) throw error;
    const address = new URL(url);
    address.username = `${automation}.next`;
    return amqp.connect(address.href);
  }
}
