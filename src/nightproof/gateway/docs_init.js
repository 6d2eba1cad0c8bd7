// Starts Swagger UI on /docs. A file of its own, so that the page needs no inline script.
"use strict";

// The Swagger UI that we ship reads OpenAPI 3.0 and refuses the word 3.1. /openapi.json is 3.1, for every
// other tool; here alone, its few newer words are said in those of 3.0. Only for the eye: nothing is sent.
function inWordsOf30(part) {
  if (Array.isArray(part)) {
    return part.map(inWordsOf30);
  }
  if (part === null || typeof part !== "object") {
    return part;
  }
  const said = {};
  for (const [key, inner] of Object.entries(part)) {
    said[key] = inWordsOf30(inner);
  }
  if ("const" in said && !("enum" in said)) {
    said.enum = [said.const];
    delete said.const;
  }
  if (Array.isArray(said.type)) {
    const kinds = said.type.filter((kind) => kind !== "null");
    said.nullable = kinds.length < said.type.length;
    if (kinds.length === 1) {
      said.type = kinds[0];
    } else {
      delete said.type;
      said.anyOf = kinds.map((kind) => ({ type: kind }));
    }
  }
  if (Array.isArray(said.anyOf) && said.anyOf.some((form) => form.type === "null")) {
    const forms = said.anyOf.filter((form) => form.type !== "null");
    delete said.anyOf;
    said.nullable = true;
    if (forms.length > 1) {
      said.anyOf = forms;
    } else if (forms.length === 1 && "$ref" in forms[0]) {
      said.allOf = forms;
    } else {
      Object.assign(said, forms[0], { nullable: true });
    }
  }
  if (Array.isArray(said.examples) && said.examples.length && !("example" in said)) {
    said.example = said.examples[0];
    delete said.examples;
  }
  return said;
}

const definition = new URL("../openapi.json", document.currentScript.src).href;

window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: definition,
    dom_id: "#swagger-ui",
    deepLinking: true,
    docExpansion: "list",
    displayRequestDuration: true,
    validatorUrl: null, // asks a server on the internet otherwise
    persistAuthorization: false, // keys stay out of the browser's storage
    responseInterceptor: (response) => {
      if (response.url === definition && response.ok) {
        const document30 = inWordsOf30(JSON.parse(response.text));
        document30.openapi = "3.0.3";
        response.text = JSON.stringify(document30);
      }
      return response;
    },
  });
});
