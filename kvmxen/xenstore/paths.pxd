cpdef str parent(str path)
cpdef list names(str path)
cpdef list ancestry(str path)
