"use strict";
// The page of `focalnets serve` asks its server, and asks the reader for the token if the server needs one.
let token = sessionStorage.getItem("token");

async function explainFile(file) {
  const headers = { "Content-Type": "application/octet-stream" }; // the server finds the format by itself
  if (token) headers.Authorization = `Bearer ${token}`;
  const query = new URLSearchParams({ ...Object.fromEntries(new URLSearchParams(location.search)), name: file.name });
  const response = await fetch(`explore?${query}`, { method: "POST", headers, body: file });
  if (response.status === 401) {
    token = prompt("Token of this server");
    if (!token) throw new Error("This server needs a token.");
    sessionStorage.setItem("token", token);
    return explainFile(file);
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}
