// What stands in the page besides its text: settings, and files that are compressed and in base64.

export const settings = JSON.parse(document.getElementById("settings").textContent);
export const about = settings.sam_tinyusfm; // the metadata of the student
export const classNames = about.classes.slice(1);

export async function unpack(id) {
  return gunzip(fromBase64(document.getElementById(id).textContent), "gzip");
}

export async function unpackText(id) {
  return new TextDecoder().decode(await unpack(id));
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// format: "gzip", or "deflate" as in PNG
export async function gunzip(bytes, format) {
  return through(bytes, new DecompressionStream(format));
}

export async function through(bytes, stream) {
  const packed = new Blob([bytes]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

// An error whose message is for the user: one sentence that starts behind the name of the file.
export class Refused extends Error {}
