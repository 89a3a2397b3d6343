//! The least that a client has to do: one connection that is kept, the bytes of a request, and the answer up to its announced length.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use portcullis::policy::{Opa, PolicyBackend as _, PolicyInput};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    runtime::Runtime,
};

use crate::decider::{Ask, runtime};

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Where the server listens.
#[derive(Clone)]
pub(crate) enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

pub(crate) struct Bare {
    runtime: Runtime,
    stream: Box<dyn Stream>,
    requests: Vec<Vec<u8>>,
    received: Vec<u8>,
}

impl Bare {
    pub(crate) fn connect(address: &Address, requests: Vec<Vec<u8>>) -> Self {
        let runtime = runtime();
        let stream: Box<dyn Stream> = runtime.block_on(async {
            match address {
                Address::Tcp(port) => {
                    let stream = TcpStream::connect(("127.0.0.1", *port)).await.expect("the server listens");
                    stream.set_nodelay(true).expect("a connected stream");
                    Box::new(stream) as Box<dyn Stream>
                }
                Address::Unix(path) => Box::new(UnixStream::connect(path).await.expect("the server listens")),
            }
        });
        Self { runtime, stream, requests, received: vec![0; 64 * 1024] }
    }
}

impl Ask for Bare {
    fn ask(&mut self, number: usize, _: &PolicyInput) -> (bool, Duration) {
        let Self { runtime, stream, requests, received } = self;
        let began = Instant::now();
        let length = runtime.block_on(async {
            stream.write_all(&requests[number]).await.expect("the server reads");
            read_message(&mut **stream, received).await
        });
        let took = began.elapsed();
        (contains(&received[..length], br#""allow":true"#), took)
    }
}

/// What `Opa` writes for each of these questions, to the byte.
pub(crate) fn requests_of_opa(inputs: &[PolicyInput]) -> Vec<Vec<u8>> {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let opa = std::sync::Arc::new(Opa::builder(url).without_health_checks().build().expect("a backend"));
        let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    loop {
                        let length = read_message(&mut stream, &mut buffer).await;
                        if length == 0 || sender.send(buffer[..length].to_vec()).is_err() {
                            return;
                        }
                        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"result\":true}";
                        stream.write_all(answer.as_bytes()).await.expect("the client reads");
                    }
                });
            }
        });
        let mut all = Vec::new();
        for input in inputs {
            let _decision = opa.clone().decide(input.clone()).await.expect("a decision");
            all.push(requests.recv().await.expect("the request was seen"));
        }
        all
    })
}

/// Reads a head and as much as its `Content-Length` says; 0 when the other side is gone.
async fn read_message(stream: &mut (impl AsyncRead + Unpin + ?Sized), buffer: &mut [u8]) -> usize {
    let mut length = 0;
    loop {
        let read = stream.read(&mut buffer[length..]).await.expect("the other side writes");
        if read == 0 {
            return 0;
        }
        length += read;
        let received = &buffer[..length];
        if let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n")
            && length >= head + 4 + content_length(&received[..head])
        {
            return length;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).expect("a head of text");
    let value = head.lines().filter_map(|line| line.split_once(':'));
    let value = value.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    value.expect("a message of known length").1.trim().parse().expect("a number")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

pub(crate) fn url(address: &Address) -> String {
    match address {
        Address::Tcp(port) => format!("http://127.0.0.1:{port}"),
        Address::Unix(path) => format!("unix://{}", Path::display(path)),
    }
}
