//! HTTP/2 by hand: pseudo-headers of any bytes, which no client library would send.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::PATIENCE;

/// How a server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a response.
    Answered,
    /// With `RST_STREAM`, `GOAWAY`, or by closing the connection: the request was no request to it.
    Refused,
}

/// Sends one request without a body, exactly these header fields in this order, and waits for its end.
pub(super) async fn send(address: SocketAddr, fields: &[(&[u8], &[u8])]) -> End {
    let mut block = Vec::new();
    for (name, value) in fields {
        // RFC 7541 §6.2.2: a literal field without indexing, name and value written out.
        block.push(0);
        literal(&mut block, name);
        literal(&mut block, value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    frame(&mut bytes, HEADERS, END_STREAM | END_HEADERS, 1, &block);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    timeout(PATIENCE, end_of_stream(&mut stream)).await.expect("an end in time")
}

async fn end_of_stream(stream: &mut TcpStream) -> End {
    let mut answered = false;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return End::Refused;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let (kind, flags, id) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        answered |= kind == HEADERS && id == 1;
        match kind {
            // A server may answer before it has read everything, and reset then: that is an answer.
            RST_STREAM | GOAWAY => return if answered { End::Answered } else { End::Refused },
            HEADERS | DATA if flags & END_STREAM != 0 => return End::Answered,
            _ => {}
        }
    }
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// RFC 7541 §5.2, without Huffman coding; §5.1 for the length.
fn literal(block: &mut Vec<u8>, text: &[u8]) {
    match text.len().checked_sub(127) {
        None => block.push(u8::try_from(text.len()).unwrap()),
        Some(mut rest) => {
            block.push(127);
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend_from_slice(text);
}

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
