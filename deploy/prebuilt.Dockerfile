# As /Dockerfile, from static binaries in the directory that is given as the context.
FROM scratch
COPY edgeproxy mock-backend /
WORKDIR /data
ENTRYPOINT ["/edgeproxy"]
