// Shows the OpenAPI document. This Swagger UI knows OpenAPI 3.0 only, where what may be null is said otherwise.
function as30(part) {
  if (Array.isArray(part)) return part.map(as30);
  if (part === null || typeof part !== "object") return part;
  const same = Object.fromEntries(Object.entries(part).map(([name, value]) => [name, as30(value)]));
  const others = same.anyOf?.filter((choice) => choice.type !== "null");
  if (!others || others.length === same.anyOf.length) return same;
  const { anyOf, ...rest } = same;
  return others.length === 1 ? { ...others[0], ...rest, nullable: true } : { ...rest, anyOf: others, nullable: true };
}

fetch("/api/openapi.json")
  .then((answer) => answer.json())
  .then((document) =>
    SwaggerUIBundle({
      spec: { ...as30(document), openapi: "3.0.3" },
      dom_id: "#reference",
      deepLinking: true,
      defaultModelsExpandDepth: 0,
      docExpansion: "list",
      // Nothing is changed from here: that needs the session's CSRF token, or a token of one's own.
      supportedSubmitMethods: ["get"],
      validatorUrl: null,
    }),
  );
