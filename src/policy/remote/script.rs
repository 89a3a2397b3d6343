//! A loopback server that answers by a script, and what such a server can do wrong below HTTP's answers.

use std::{sync::Arc, time::Duration};

use PolicyErrorKind::{InvalidResult, Timeout, Unavailable};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};

use crate::policy::PolicyErrorKind;

#[derive(Clone)]
pub(in crate::policy) enum Step {
    /// Writes these bytes and keeps the connection.
    Answer(Vec<u8>),
    /// Writes these bytes and closes.
    Close(Vec<u8>),
    /// Writes these bytes and then this one, every few milliseconds, for ever.
    Drip(Vec<u8>, u8),
    Stall,
}

/// Takes the steps in order, one for each request; the last one repeats.
pub(in crate::policy) struct Server {
    pub(in crate::policy) url: String,
    pub(in crate::policy) requests: mpsc::UnboundedReceiver<String>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(in crate::policy) async fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (log, requests) = mpsc::unbounded_channel();
        let script = Arc::new(std::sync::Mutex::new(steps));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&script), log.clone()));
            }
        });
        Self { url, requests, _tasks: tasks }
    }

    pub(in crate::policy) async fn answering(answer: Vec<u8>) -> Self {
        Self::start(vec![Step::Answer(answer)]).await
    }

    pub(in crate::policy) fn asked(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

pub(in crate::policy) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Arc<std::sync::Mutex<Vec<Step>>>,
    log: mpsc::UnboundedSender<String>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut length) = (String::new(), 0);
        while !request.ends_with("\r\n\r\n") {
            let start = request.len();
            if !matches!(stream.read_line(&mut request).await, Ok(1..)) {
                return;
            }
            if let Some(value) = request[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        log.send(request + std::str::from_utf8(&body).unwrap()).unwrap();
        let step = {
            let mut script = script.lock().unwrap();
            if script.len() > 1 { script.remove(0) } else { script[0].clone() }
        };
        match step {
            Step::Answer(bytes) => drop(stream.write_all(&bytes).await),
            Step::Close(bytes) => return drop(stream.write_all(&bytes).await),
            Step::Drip(start, byte) => {
                let _ = stream.write_all(&start).await;
                while stream.write_all(&[byte]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                return;
            }
            Step::Stall => std::future::pending().await,
        }
    }
}

pub(in crate::policy) fn http(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

pub(in crate::policy) fn ok(body: &str) -> Vec<u8> {
    http("200 OK", "application/json", body)
}

/// How a fault reaches us: over plain HTTP/1, HTTP/2 or TLS.
#[derive(Clone, Copy)]
pub(in crate::policy) enum Over {
    Http1,
    Http2,
    Tls,
}

pub(in crate::policy) struct Fault {
    pub(in crate::policy) name: &'static str,
    pub(in crate::policy) over: Over,
    pub(in crate::policy) step: Step,
    pub(in crate::policy) expected: PolicyErrorKind,
    /// How often the server was reached: twice only where nothing was answered.
    pub(in crate::policy) attempts: usize,
}

pub(in crate::policy) fn fault(name: &'static str, step: Step, expected: PolicyErrorKind) -> Fault {
    Fault { name, over: Over::Http1, step, expected, attempts: 1 }
}

pub(in crate::policy) fn twice(name: &'static str, step: Step) -> Fault {
    Fault { attempts: 2, ..fault(name, step, Unavailable) }
}

pub(in crate::policy) fn status(line: &str, body: &str) -> Step {
    Step::Answer(http(line, "application/json", body))
}

pub(in crate::policy) fn result(body: &str) -> Step {
    Step::Answer(ok(body))
}

pub(in crate::policy) fn head(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{lines}\r\n")
}

/// A frame of HTTP/2 (RFC 9113 §4.1) on stream 0.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, 0, 0, 0, 0, 0][..], payload].concat()
}

pub(in crate::policy) fn transport(allow: &'static str) -> Vec<Fault> {
    let (settings, goaway) = (frame(4, &[]), frame(7, &[0; 8]));
    let goaway_after_error = frame(7, &[0, 0, 0, 1, 0, 0, 0, 2]);
    let reset = |code| [&[0, 0, 4, 3, 0, 0, 0, 0, 1][..], &[0, 0, 0, code]].concat();
    let h2 = |frames: &[&[u8]]| Step::Answer(frames.concat());
    let body = allow.len() + 7;
    vec![
        twice("closed before an answer", Step::Close(Vec::new())),
        // The HTTP library does not tell this from the former, and no decision can have been in it.
        twice("closed within the head", Step::Close(b"HTTP/1.1 200 OK\r\ncontent-ty".to_vec())),
        fault("closed after the head", Step::Close(head("content-length: 16\r\n").into()), Unavailable),
        fault(
            "closed within the body",
            Step::Close((head("content-length: 16\r\n") + "{\"result\": tr").into()),
            Unavailable,
        ),
        fault(
            "length longer than the body",
            Step::Close((head(&format!("content-length: {body}\r\n")) + allow).into()),
            Unavailable,
        ),
        fault(
            "length shorter than the body",
            Step::Close((head("content-length: 9\r\n") + allow).into()),
            InvalidResult,
        ),
        fault(
            "two lengths",
            Step::Close((head("content-length: 16\r\ncontent-length: 9\r\n") + allow).into()),
            Unavailable,
        ),
        fault("length that is no number", Step::Close((head("content-length: many\r\n") + allow).into()), Unavailable),
        fault(
            "chunks that break off",
            Step::Close((head("transfer-encoding: chunked\r\n") + "10\r\n{\"result\"").into()),
            Unavailable,
        ),
        fault(
            "chunks of no size",
            Step::Close((head("transfer-encoding: chunked\r\n") + "zz\r\n").into()),
            Unavailable,
        ),
        fault("silence", Step::Stall, Timeout),
        fault("head that never ends", Step::Drip(b"HTTP/1.1 200 OK\r\nx-drip: ".to_vec(), b'x'), Timeout),
        fault("silence after the head", Step::Drip(head("content-length: 9999\r\n").into(), b' '), Timeout),
        fault("slow body", Step::Drip((head("content-length: 60000\r\n") + allow).into(), b' '), Timeout),
        fault("no HTTP", Step::Close(b"-ERR unknown command\r\n".to_vec()), Unavailable),
        fault(
            "HTTP/9.9",
            Step::Close(format!("HTTP/9.9 200 OK\r\ncontent-length: 16\r\n\r\n{allow}").into()),
            Unavailable,
        ),
        fault("HTTP/2 unasked", Step::Close([&settings[..], &goaway].concat()), Unavailable),
        Fault { over: Over::Http2, ..fault("HTTP/1 in place of HTTP/2", result(allow), Unavailable) },
        Fault { over: Over::Http2, ..twice("HTTP/2, left with GOAWAY", h2(&[&settings, &goaway])) },
        Fault {
            over: Over::Http2,
            ..twice("HTTP/2, closed with GOAWAY for an error", h2(&[&settings, &goaway_after_error]))
        },
        Fault { over: Over::Http2, ..twice("HTTP/2, stream refused", h2(&[&settings, &reset(7)])) },
        Fault {
            over: Over::Http2,
            ..fault("HTTP/2, stream reset for an error", h2(&[&settings, &reset(2)]), Unavailable)
        },
        Fault {
            over: Over::Tls,
            ..twice("HTTP in place of TLS", Step::Close(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()))
        },
        Fault { over: Over::Tls, ..twice("TLS alert", Step::Close(vec![21, 3, 3, 0, 2, 2, 40])) },
        Fault { over: Over::Tls, ..fault("silence instead of TLS", Step::Stall, Timeout) },
    ]
}

impl Server {
    /// A server that every connection reaches in this way, and that then takes this step.
    pub(in crate::policy) async fn reached_by(over: Over, step: Step) -> Self {
        if matches!(over, Over::Http1) {
            return Self::start(vec![step]).await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (log, requests) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (step, log) = (step.clone(), log.clone());
                connections.spawn(async move {
                    match over {
                        Over::Http2 => read_request_head(&mut stream).await,
                        // As much of the first message of TLS as comes at once.
                        _ => drop(stream.read(&mut [0; 4096]).await),
                    }
                    log.send(String::new()).unwrap();
                    match step {
                        Step::Close(bytes) | Step::Answer(bytes) => {
                            let _ = stream.write_all(&bytes).await;
                            let _ = stream.shutdown().await;
                            // With bytes left unread, the close would be a reset.
                            while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
                        }
                        _ => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, requests, _tasks: tasks }
    }
}

/// Reads HTTP/2 up to the first HEADERS frame.
async fn read_request_head(stream: &mut tokio::net::TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    loop {
        let mut header = [0; 9];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if header[3] == 1 {
            return;
        }
    }
}

/// An authority whose key nobody kept: it is trusted, and vouches for nobody.
pub(in crate::policy) const NOBODY: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBijCCAS+gAwIBAgIUQ7CuGCypx0pkezjSHIbnXahqO8kwCgYIKoZIzj0EAwIw\n\
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNDAwMTIyMVoYDzIxMjYxMDMxMDAx\n\
MjIxWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AATq8GuR9/fuA7qGWrYF4Nszmk2uzXt+EPCpt4R0XcXiRe0REcmBA+RkT8nRN4U6\n\
N0ZIdocR5ZQWB2kjWnpcFdudo2MwYTAdBgNVHQ4EFgQUNrVGVuWF8FBCdiaIwzJl\n\
GH7wQSgwHwYDVR0jBBgwFoAUNrVGVuWF8FBCdiaIwzJlGH7wQSgwDwYDVR0TAQH/\n\
BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDSQAwRgIhAIEu0aWR\n\
iclF1lVBFJOrVHZlmjYmsgN+ydsRMGVEt+4NAiEA9c2bs7uKfPTAj6I9wtYsc8kA\n\
bcNum6VySLNq8dV4R0c=\n\
-----END CERTIFICATE-----\n";
