//! Clients that see every byte a server sends, and the one form in which answers are compared.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

use crate::support::within;

/// What a client asks for, in a form that each protocol can send.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: Method,
    pub target: String,
    /// Sent in order, as they are.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Ask {
    pub fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new() }
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target)
    }

    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((HeaderName::from_static(name), HeaderValue::from_bytes(value.as_ref()).unwrap()));
        self
    }

    pub fn headers(mut self, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// Everything that was on the wire, in the form that goldens are written in: only the request id and the date are masked.
    pub canonical: String,
}

impl Answer {
    /// `x-request-id`, after checking its form.
    pub fn request_id(&self) -> String {
        let lines: Vec<_> = self.headers.get_all("x-request-id").iter().collect();
        assert_eq!(lines.len(), 1, "one request id in {}", self.canonical);
        let id = lines[0].to_str().unwrap().to_owned();
        assert!(is_request_id(&id), "{id:?}");
        id
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn is_request_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One HTTP/1.1 exchange on a connection of its own, read until the server closes it.
pub async fn http1(address: SocketAddr, ask: &Ask) -> Answer {
    let raw = within("an answer", http1_raw(address, &http1_bytes(ask))).await;
    parse_http1(&raw)
}

/// The bytes of the request, with `Connection: close`.
pub fn http1_bytes(ask: &Ask) -> Vec<u8> {
    let mut bytes =
        format!("{} {} HTTP/1.1\r\nhost: api.acme.example\r\nconnection: close\r\n", ask.method, ask.target)
            .into_bytes();
    for (name, value) in &ask.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

pub async fn http1_raw(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.unwrap();
    raw
}

pub fn parse_http1(raw: &[u8]) -> Answer {
    let end = raw
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(raw)));
    let head = std::str::from_utf8(&raw[..end]).unwrap();
    let body = raw[end + 4..].to_vec();
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap();
    let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let canonical = mask(&format!("{head}\r\n\r\n{}", String::from_utf8_lossy(&body)).replace("\r\n", "\n"), &headers);
    Answer { status, headers, body, canonical }
}

/// One HTTP/2 exchange on a connection of its own. `END_STREAM` stands on the request's headers, so that the answer is not
/// raced by a body.
pub async fn http2(address: SocketAddr, ask: &Ask) -> Answer {
    within("an answer", http2_exchange(address, ask, None)).await
}

/// One gRPC call: a POST with the headers of a gRPC client and an empty message.
pub async fn grpc(address: SocketAddr, ask: &Ask) -> Answer {
    let message = Bytes::from_static(&[0, 0, 0, 0, 0]);
    within("an answer", http2_exchange(address, ask, Some(message))).await
}

async fn http2_exchange(address: SocketAddr, ask: &Ask, body: Option<Bytes>) -> Answer {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tap = Tap { stream: TcpStream::connect(address).await.unwrap(), seen: Arc::clone(&seen) };
    let (mut client, connection) = h2::client::handshake(tap).await.unwrap();
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(format!("http://api.acme.example{}", ask.target))
        .body(())
        .unwrap();
    for (name, value) in &ask.headers {
        request.headers_mut().append(name, value.clone());
    }
    let driver = tokio::spawn(connection);
    let (response, mut stream) = client.send_request(request, body.is_none()).unwrap();
    if let Some(body) = body {
        // The server may have refused and reset the stream already.
        let _ = stream.send_data(body, true);
    }
    let (head, mut incoming) = response.await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk.unwrap();
        incoming.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
    }
    let trailers = incoming.trailers().await.unwrap();
    driver.abort();

    let frames = frames_of_first_stream(&seen.lock().unwrap());
    let mut text = format!("[{}]\n:status: {}\n", frames.join(", "), head.status.as_u16());
    write_headers(&mut text, &head.headers);
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&body));
    if let Some(trailers) = &trailers {
        text.push_str("\n[trailers]\n");
        write_headers(&mut text, trailers);
    }
    let canonical = mask(&text, &head.headers);
    Answer { status: head.status.as_u16(), headers: head.headers, body, canonical }
}

fn write_headers(text: &mut String, headers: &HeaderMap) {
    for (name, value) in headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
}

/// Masks what may differ between two answers of one class, and nothing else.
fn mask(text: &str, headers: &HeaderMap) -> String {
    let mut text = text.to_owned();
    if let Some(date) = headers.get("date") {
        text = text.replace(&format!("date: {}", date.to_str().unwrap()), "date: (date)");
    }
    match headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
        Some(id) if is_request_id(id) => text.replace(id, "(id)"),
        _ => text,
    }
}

/// Records what is read, and passes everything on.
struct Tap {
    stream: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.seen.lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Type and flags of each frame of stream 1, in order (RFC 9113 §4.1), as `HEADERS+END_HEADERS`.
fn frames_of_first_stream(mut bytes: &[u8]) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        bytes = rest.get(length..).unwrap_or_default();
        if stream != 1 {
            continue;
        }
        let (name, known): (&str, &[(u8, &str)]) = match kind {
            0x0 => ("DATA", &[(0x1, "END_STREAM"), (0x8, "PADDED")]),
            0x1 => ("HEADERS", &[(0x1, "END_STREAM"), (0x4, "END_HEADERS"), (0x8, "PADDED"), (0x20, "PRIORITY")]),
            0x3 => ("RST_STREAM", &[]),
            0x8 => ("WINDOW_UPDATE", &[]),
            0x9 => ("CONTINUATION", &[(0x4, "END_HEADERS")]),
            _ => ("OTHER", &[]),
        };
        let set = known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| format!("+{name}"));
        frames.push(format!("{name}{}", set.collect::<String>()));
    }
    frames
}
